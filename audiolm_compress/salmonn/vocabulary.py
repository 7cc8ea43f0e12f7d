"""A model with fewer tokens: embedding, head, tokenizer and every id that a config names follow.

The rows of the kept tokens are copied as they are, in 8 bit also code by code. So what the model computes
for a kept token, as input and as logit, is what it computed before; the probabilities of removed tokens are
shared out among the kept ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from audiolm_compress.errors import PassError
from audiolm_compress.quantization import QuantizedEmbedding, QuantizedLinear, TiedHead, tie_heads
from audiolm_compress.quantization.packing import pack, unpack
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.subwords import Subwords

# Names in the configs of model and generation. Ids under the first must stay.
_ROLES = ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos")
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_UNKNOWN = ("sequence_bias", "force_words_ids", "forced_decoder_ids")


def open_vocabulary(model: Salmonn) -> Subwords:
    """The vocabulary of a model, once it is sure that it can be trimmed.

    Raises:
        PassError: the tokenizer, the embedding or the head is of an unknown kind, an adapter sits on one of
            them, the tokenizer has tokens without a row, or the generation config names ids in a way that
            cannot be followed.
    """
    tokenizer = model.tokenizer
    if not tokenizer.is_fast:
        raise PassError(
            f"vocab_trim: {type(tokenizer).__name__} has no fast tokenizer behind it, whose vocabulary could "
            "be edited; load the model with a tokenizer.json"
        )
    for what, module, kinds in (
        ("embedding", model.causal_lm.get_input_embeddings(), (nn.Embedding, QuantizedEmbedding)),
        ("head", model.causal_lm.get_output_embeddings(), (nn.Linear, TiedHead, QuantizedLinear)),
    ):
        if not isinstance(module, kinds):
            raise PassError(
                f"vocab_trim: the LLM's {what} is a {type(module).__name__}, whose rows this pass cannot "
                "select; merge adapters first, and put vocab_trim before passes that replace it"
            )
    named = [name for name in _UNKNOWN if getattr(model.causal_lm.generation_config, name, None)]
    if named:
        raise PassError(
            f"vocab_trim: the generation config has {', '.join(named)}, whose ids this pass cannot follow; "
            "clear it"
        )
    subwords = Subwords(tokenizer.backend_tokenizer)
    rows = embedding_rows(model)
    beyond = [number for number in sorted({*subwords.tokens, *config_ids(model)}) if number >= rows]
    if beyond:
        raise PassError(
            f"vocab_trim: token ids such as {beyond[0]} are used, but the embedding has {rows} rows; "
            "the tokenizer does not belong to this LLM"
        )
    return subwords


def embedding_rows(model: Salmonn) -> int:
    """Rows of the embedding; more than the tokenizer has tokens where they were padded."""
    rows: int = model.causal_lm.get_input_embeddings().num_embeddings
    return rows


def config_ids(model: Salmonn) -> set[int]:
    """Ids that the configs of the LLM and of its generation give a role."""
    found: set[int | None] = set()
    for config in _configs(model):
        for role in _ROLES:
            value = getattr(config, f"{role}_token_id", None)
            found |= set(value) if isinstance(value, list) else {value}
    return {number for number in found if number is not None and number >= 0}


def prompt_texts(model: Salmonn) -> list[str]:
    """Every text that the model's prompts put before or after the audio, and its end symbols."""
    prompts = model.prompts
    around = [prompts.around("", "")]  # the frame of a user's own words
    around += [prompts.around(task, None, "{}") for task in prompts.test]
    around += [prompts.around(task, text) for task, many in prompts.train.items() for text in many]
    ends = {model.end_symbol, *(settings.end_sym for settings in model.decode.values())}
    return [text for pair in around for text in pair] + sorted(ends)


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, nothing put around it."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
    return ids


def head_bytes(model: Salmonn) -> int:
    """Bytes of the head, all of which are read for every generated token."""
    head = model.causal_lm.get_output_embeddings()
    source = head.embedding if isinstance(head, TiedHead) else head
    return sum(tensor.nbytes for tensor in source.state_dict().values())


@torch.no_grad()
def trim_vocabulary(model: Salmonn, subwords: Subwords, kept: Iterable[int]) -> None:
    """Leave ``model`` only the tokens ``kept``.

    Args:
        model: of ``open_vocabulary``.
        subwords: its vocabulary.
        kept: ids, among them ``subwords.required()``, ``config_ids`` and the parts of each.

    Raises:
        PassError: see ``Subwords.trim``; nothing has changed then.
    """
    order = subwords.order(kept)
    trimmed = subwords.trim(order)
    rows = torch.tensor(order, device=model.device)
    select_rows(model, rows)
    # There is no public way to put another backend into a tokenizer of transformers; `backend_tokenizer`
    # and all that is looked up (ids of special tokens, the vocabulary, what is saved) read this one.
    model.tokenizer._tokenizer = trimmed
    _renumber(model, {number: index for index, number in enumerate(order)})


def select_rows(model: Salmonn, rows: Tensor) -> None:
    """Keep these rows of embedding and head, as packed as they are; tokenizer and ids are left alone.

    What knows the size of the vocabulary learns the new one.
    """
    embedding, head = model.causal_lm.get_input_embeddings(), model.causal_lm.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    tied = isinstance(head, nn.Linear) and getattr(embedding, "weight", None) is head.weight
    if isinstance(embedding, QuantizedEmbedding):
        replacement = QuantizedEmbedding(
            len(rows),
            embedding.embedding_dim,
            embed_scale=embedding.scalar_embed_scale,
            dtype=embedding.scales.dtype,
        )
        replacement.codes, replacement.scales = embedding.codes[rows], embedding.scales[rows]
        model.replace_module(names[id(embedding)], replacement)
        tie_heads(model)
    else:
        embedding.weight = _selected(embedding.weight, rows)
        embedding.num_embeddings = len(rows)
    if isinstance(head, QuantizedLinear):
        model.replace_module(names[id(head)], _selected_outputs(head, rows))
    elif isinstance(head, nn.Linear):
        head.weight = embedding.weight if tied else _selected(head.weight, rows)
        head.bias = None if head.bias is None else _selected(head.bias, rows)
        head.out_features = len(rows)
    llm = model.causal_lm
    llm.config.get_text_config().vocab_size = len(rows)
    for module in llm.modules():
        if isinstance(getattr(module, "vocab_size", None), int):
            module.vocab_size = len(rows)


def _selected(parameter: Tensor, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter[rows.to(parameter.device)], requires_grad=parameter.requires_grad)


def _selected_outputs(layer: QuantizedLinear, rows: Tensor) -> QuantizedLinear:
    """The layer with these of its outputs, codes and scales unchanged."""
    stored = layer.state_dict()
    packed = {name: stored[name][:, rows] for name in ("qweight", "scales")}
    if "qzeros" in stored:
        bits = layer.scheme.bits
        zeros = unpack(stored["qzeros"].T, bits, layer.out_features)[rows]
        packed["qzeros"] = pack(zeros, bits).T
    if layer.bias is not None:
        packed["bias"] = layer.bias[rows]
    selected = QuantizedLinear(
        layer.in_features, len(rows), layer.scheme, bias=layer.bias is not None, dtype=layer.dtype
    ).to(rows.device)
    selected.load_state_dict({name: tensor.contiguous() for name, tensor in packed.items()})
    selected.prepare()
    return selected


def _configs(model: Salmonn) -> list[Any]:
    """Everything that names token ids, each once."""
    llm = model.causal_lm
    found = (llm.config, llm.config.get_text_config(), llm.generation_config)
    return list({id(config): config for config in found}.values())


def _renumber(model: Salmonn, numbers: Mapping[int, int]) -> None:
    """Change every id that is written down outside of the tokenizer."""
    for config in _configs(model):
        for role in _ROLES:
            value = getattr(config, f"{role}_token_id", None)
            if isinstance(value, list):
                setattr(config, f"{role}_token_id", [numbers[number] for number in value])
            elif value is not None and value >= 0:
                setattr(config, f"{role}_token_id", numbers[value])
        # A removed token cannot be generated, so it need not be forbidden.
        for name in _SUPPRESSED:
            if getattr(config, name, None):
                setattr(config, name, [numbers[n] for n in getattr(config, name) if n in numbers])
        if getattr(config, "bad_words_ids", None):
            possible = [words for words in config.bad_words_ids if all(n in numbers for n in words)]
            config.bad_words_ids = [[numbers[n] for n in words] for words in possible] or None
    for module in model.causal_lm.modules():
        if isinstance(padding := getattr(module, "padding_idx", None), int) and padding >= 0:
            module.padding_idx = numbers.get(padding)
