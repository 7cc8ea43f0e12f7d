"""A narrow twin of a model: the same parts, layers, heads, tokenizer and prompts, but few and random weights.

What can be wrong about the order or the settings of passes is about structure: which parts there are, how
many layers and heads, what is packed or adapted already. All of that the twin has, so trying the passes on it
takes seconds and finds what would stop a run after hours. Only widths shrink: of every attention head, of the
feed-forwards, and with them of the hidden states.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.errors import BaselineError
from audiolm_compress.quantization import module_from_spec, prepare_modules
from audiolm_compress.quantization.sinusoids import sinusoids
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn

_WIDTH = 64  # hidden states are at least this wide, unless the model's own are narrower
_MULTIPLE = 32  # as packed formats and their kernels like it
_FEWEST_OUTPUTS = 16  # a layer with fewer is a gate to the passes that quantise; keys must not become one
_RANK = 16


def narrow_twin(model: Salmonn, seed: int = 0) -> Salmonn:
    """Build the twin of ``model``, which may be an outline; on the CPU, ready to answer (nonsense).

    Args:
        model: its structure, dtypes and tokenizer are taken.
        seed: of the random weights.

    Raises:
        BaselineError: a config does not have the widths that are to be narrowed under the usual names.
    """
    try:
        config = narrow_config(store.describe(model))
    except KeyError as missing:
        kind = type(model.causal_lm).__name__
        raise BaselineError(f"no twin of this model with {kind}: a config has no {missing}") from missing
    replaced = config.pop("replaced")
    twin = store.build({**config, "replaced": {}}, deepcopy(model.tokenizer), model.feature_extractor)
    for name, spec in replaced.items():
        twin.replace_module(name, module_from_spec(_narrow_spec(spec, twin.get_submodule(name))))
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: _random(name, tensor, dtypes.get(name, tensor.dtype), generator)
        for name, tensor in twin.state_dict().items()
    }
    positions = "speech_encoder.embed_positions.weight"
    if positions in state:  # passes may rely on what is never trained
        length, width = state[positions].shape
        state[positions] = sinusoids(torch.arange(length), width).to(state[positions].dtype)
    twin.load_state_dict(state, assign=True)
    twin.tie_head()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # slow kernels are the run's to tell
        prepare_modules(twin)
    return twin.eval().requires_grad_(False)


def narrow_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a model with narrow heads, feed-forwards and hidden states; nothing grows.

    Raises:
        KeyError: a config has no such width; not all LLMs name theirs alike.
    """
    narrow: dict[str, Any] = deepcopy(dict(config))
    speech = narrow["speech_encoder"]
    heads = speech["encoder_attention_heads"]
    speech["d_model"] = heads * _head_width(heads, speech["d_model"] // heads)
    speech["encoder_ffn_dim"] = min(speech["encoder_ffn_dim"], speech["d_model"])
    sound = narrow["audio_encoder"]
    if sound is not None:
        _narrow_beats(sound)
    llm = narrow["llm"]
    heads = llm["num_attention_heads"]
    kv_heads = llm.get("num_key_value_heads") or heads
    full = llm.get("head_dim") or llm["hidden_size"] // heads
    head_dim = max(_head_width(heads, full), min(full, -(-_FEWEST_OUTPUTS // kv_heads)))
    llm["hidden_size"] = min(llm["hidden_size"], heads * head_dim)
    if "head_dim" in llm:
        llm["head_dim"] = head_dim
    llm["intermediate_size"] = min(llm["intermediate_size"], llm["hidden_size"])
    connector = narrow["connector"]
    connector["speech_width"] = speech["d_model"]
    connector["audio_width"] = 0 if sound is None else sound["encoder_embed_dim"]
    connector["llm_width"] = llm["hidden_size"]
    heads = connector["heads"]
    connector["hidden"] = heads * _head_width(heads, connector["hidden"] // heads)
    connector["intermediate"] = min(connector["intermediate"], connector["hidden"])
    return narrow


def _narrow_beats(config: dict[str, Any]) -> None:
    heads, groups = config["encoder_attention_heads"], config["conv_pos_groups"]
    full = config.get("encoder_head_dim") or config["encoder_embed_dim"] // heads
    same = config["embed_dim"] == config["encoder_embed_dim"]
    head_dim = _head_width(heads, full)
    if config.get("encoder_head_dim"):
        config["encoder_head_dim"] = head_dim
        width = -(-max(_WIDTH, heads * head_dim) // groups) * groups
    else:
        while heads * head_dim % groups and head_dim < full:
            head_dim += 1
        width = heads * head_dim
    config["encoder_embed_dim"] = min(config["encoder_embed_dim"], width)
    # Equal widths have no projection between them, so they must stay equal, and different ones different.
    config["embed_dim"] = config["encoder_embed_dim"] if same else min(config["embed_dim"], width // 2)
    config["encoder_ffn_embed_dim"] = min(config["encoder_ffn_embed_dim"], config["encoder_embed_dim"])


def _head_width(heads: int, full: int) -> int:
    """The narrowest head of 4, 8, 16 or 32 that makes the whole wide enough and a round number."""
    fitting = [
        width for width in (4, 8, 16, 32) if heads * width >= _WIDTH and heads * width % _MULTIPLE == 0
    ]
    return min(full, min(fitting, default=8))


def _narrow_spec(spec: Mapping[str, Any], dense: nn.Module) -> dict[str, Any]:
    """The description of a replaced module in the sizes of the module that it replaces in the twin."""
    sizes: dict[str, Any] = {
        name: getattr(dense, name)
        for name in ("in_features", "out_features", "num_embeddings", "embedding_dim")
        if name in spec
    }
    if "base" in spec:  # of an adapter
        sizes["base"] = _narrow_spec(spec["base"], dense)
    if "rank" in spec:
        sizes["rank"] = min(spec["rank"], _RANK)
    if "outliers" in spec:
        sizes["outliers"] = min(spec["outliers"], sizes["in_features"])
    return {**spec, **sizes}


def _random(name: str, tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Values that keep hidden states near one: matrices by their inputs, norms and scales constant."""
    shape = tensor.shape
    local = name.rpartition(".")[2]
    if local == "outliers":  # numbers of inputs
        return torch.arange(len(tensor), dtype=dtype)
    if local == "multiples":  # of a unit, none of them 0
        return torch.randint(1, 16, shape, generator=generator).to(dtype)
    if not dtype.is_floating_point:
        top = torch.iinfo(dtype)
        return torch.randint(top.min // 2, top.max // 2, shape, generator=generator, dtype=torch.int64).to(
            dtype
        )
    if local == "scales":
        return torch.full(shape, 1e-3, dtype=dtype)
    if local in ("bias", "lora_B"):
        return torch.zeros(shape, dtype=dtype)
    if len(shape) < 2 or local in ("weight_g", "grep_a"):
        return torch.ones(shape, dtype=dtype)
    spread = max(1, tensor[0].numel()) ** -0.5
    return (spread * torch.randn(shape, generator=generator)).to(dtype)
