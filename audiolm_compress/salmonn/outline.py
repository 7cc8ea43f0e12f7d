"""A model without its weights: the modules in their sizes, from configs alone.

It is built by the same code as the real one, on PyTorch's meta device, so it takes seconds and hardly any
memory whatever the model's size. Everything that asks for names, shapes and dtypes works on it, structural
edits included; nothing can be computed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.errors import BaselineError
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.beats import Beats, read_beats
from audiolm_compress.salmonn.beats_layers import BeatsConfig
from audiolm_compress.salmonn.checkpoint import read_checkpoint
from audiolm_compress.salmonn.connector import Connector
from audiolm_compress.salmonn.guarded import check_config, check_folder, code_if_asked, readable
from audiolm_compress.salmonn.hub import from_hub, is_hub_id
from audiolm_compress.salmonn.load import TINY
from audiolm_compress.salmonn.lora import add_lora
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.quiet import quiet_transformers
from audiolm_compress.salmonn.upstream import PAD_TOKEN, attention_of
from audiolm_compress.salmonn.upstream_config import (
    checkpoint_names,
    connector_config,
    llm_source,
    lora_arguments,
    model_section,
    model_source,
    read_config,
    text_arguments,
)

# The ``cfg`` of the published BEATs_iter3+ checkpoints, the one that SALMONN uses.
PUBLISHED_BEATS = BeatsConfig(
    input_patch_size=16,
    deep_norm=True,
    relative_position_embedding=True,
    max_distance=800,
    gru_rel_pos=True,
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Outline:
    """An empty model and what had to be assumed.

    Attributes:
        model: parameters on the meta device, in their dtypes, tied ones tied.
        tokenizer_known: False if ``model.tokenizer`` only estimates lengths.
        notes: each file that was missing, and what stands in for it.
    """

    model: Salmonn
    tokenizer_known: bool
    notes: tuple[str, ...]


def outline_model(source: str | Path) -> Outline:
    """Build a model without weights.

    Args:
        source: as of ``load_model``. Of a folder of ours ``config.json`` is enough; of an upstream YAML the
            ``config.json`` of its Whisper and LLM are.

    Raises:
        BaselineError: nothing there, or a config that cannot be read.
    """
    path = TINY if str(source) == "tiny" else Path(source)
    with quiet_transformers():
        if path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise BaselineError(
                    f"model {source}: no such file; the path counts from the working directory"
                )
            return _of_upstream(path)
        if not path.exists() and is_hub_id(str(source)):
            path = from_hub(str(source), ("*.json", "*.model"))
        if not (path / store.CONFIG).is_file():
            raise BaselineError(
                f"model {source}: neither 'tiny', nor a folder that this package saved, nor an upstream "
                f".yaml config, nor a hub id (owner/name); check the path"
            )
        return _of_folder(path)


def _of_folder(folder: Path) -> Outline:
    config = store.checked_config(folder)
    tokenizer, notes = _tokenizer(str(folder))
    with readable(f"model folder {folder}", "is damaged"):
        with torch.device("meta"):
            model = store.build(config, tokenizer or length_estimator(), _extractor(config["speech_encoder"]))
        notes += _dtypes_of_folder(model, config, folder / store.WEIGHTS)
        return _finished(model, tokenizer, notes)


def _dtypes_of_folder(model: Salmonn, config: Mapping[str, Any], weights: Path) -> list[str]:
    """Give the parameters the dtypes that the file's header tells, and those that loading casts to."""
    notes = []
    try:
        with safe_open(weights, framework="pt") as file:
            found = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError):
        found = {}
        notes.append(f"no readable {weights.name}: weights are taken to have the dtypes of the configs")
    for name, parameter in model.named_parameters():
        if name in found:
            parameter.data = parameter.data.to(_DTYPES.get(found[name], parameter.dtype))
    for name, dtype in config["dtypes"].items():
        model.cast(store.DTYPES[dtype], (name,))
    return notes


def _of_upstream(path: Path) -> Outline:
    with readable(f"baseline {path}"):
        return _upstream_outline(path)


def _upstream_outline(path: Path) -> Outline:
    config = read_config(path)
    section, root = model_section(config, path), path.parent
    notes: list[str] = []
    trained = _trained_shapes(section, root, notes)
    whisper, source = model_source(section, "whisper_path", root, path), llm_source(section, root, path)
    check_folder(whisper)
    check_folder(source, may_have_code=True)
    with readable(f"baseline {path}: config of Whisper {whisper}"):
        speech_config = WhisperConfig.from_pretrained(whisper, token=section.get("token"))
    with readable(f"baseline {path}: config of LLM {source}"):
        llm_config = AutoConfig.from_pretrained(source, token=section.get("token"), **code_if_asked())
    check_config(speech_config.to_dict(), whisper)
    check_config(llm_config.to_dict(), source, may_have_code=True)
    tokenizer, missing = _tokenizer(source, section.get("token"))
    notes += missing
    if tokenizer is not None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    # Without a tokenizer: upstream's pad token is a new one for the tokenizers of Llama and Gemma.
    vocabulary = llm_config.vocab_size + 1 if tokenizer is None else len(tokenizer)
    llm_config.vocab_size = max(llm_config.vocab_size, vocabulary)
    if llm_config.dtype is None:
        notes.append("the LLM's config tells no dtype: 16 bit is assumed")
    beats = _beats_config(section, root, notes)
    with init_empty_weights(include_buffers=False):
        speech_encoder = WhisperEncoder._from_config(speech_config, dtype=torch.float32)
        audio_encoder = None if beats is None else Beats(beats)
        llm: Any = AutoModelForCausalLM.from_config(
            llm_config,
            dtype=llm_config.dtype or torch.bfloat16,
            attn_implementation=attention_of(llm_config),
            **code_if_asked(),
        )
        connector = Connector(
            connector_config(
                section,
                trained,
                speech_width=speech_config.d_model,
                audio_width=0 if beats is None else beats.encoder_embed_dim,
                llm_width=llm_config.hidden_size,
            )
        )
    llm.tie_weights()
    if section.get("lora", True):
        llm = add_lora(llm, **lora_arguments(section, trained), empty=True)
    model = Salmonn(
        speech_encoder,
        audio_encoder,
        connector,
        llm,
        tokenizer or length_estimator(),
        _extractor(speech_config.to_dict()),
        **text_arguments(config, section, path),
    )
    return _finished(model, tokenizer, notes)


def _finished(model: Salmonn, tokenizer: PreTrainedTokenizerBase | None, notes: list[str]) -> Outline:
    model.tie_head()
    return Outline(model.eval().requires_grad_(False), tokenizer is not None, tuple(notes))


def _trained_shapes(section: Mapping[str, Any], root: Path, notes: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in checkpoint_names(section):
        if (root / name).is_file():
            shapes |= {key: tuple(tensor.shape) for key, tensor in read_checkpoint(root / name).items()}
        else:
            notes.append(f"no {name}: the Q-Former is taken to have bert-base's sizes, as upstream's")
    return shapes


def _beats_config(section: Mapping[str, Any], root: Path, notes: list[str]) -> BeatsConfig | None:
    name = section.get("beats_path")
    if not name:
        return None
    if (root / name).is_file():
        return read_beats(root / name)[0]
    notes.append(f"no {name}: BEATs is taken to have the published sizes (12 layers, 768 wide)")
    return PUBLISHED_BEATS


def _extractor(speech_config: Mapping[str, Any]) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=speech_config.get("num_mel_bins", 80))


def _tokenizer(source: str, token: str | None = None) -> tuple[PreTrainedTokenizerBase | None, list[str]]:
    """The tokenizer; None and a note where only the configs of a model are there."""
    missing = [f"no tokenizer in {Path(source).name}: prompts are counted as 4 characters a token"]
    folder = Path(source)
    # Asked for beforehand: from a config alone transformers makes some tokenizers empty, and says nothing.
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None, missing
    try:
        return AutoTokenizer.from_pretrained(source, token=token, **code_if_asked()), []
    except (OSError, ValueError):
        return None, missing


def length_estimator() -> PreTrainedTokenizerBase:
    """A tokenizer that only counts: one unknown token for every four characters, as is typical of English."""
    counter = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    counter.pre_tokenizer = Split(Regex(r"[\s\S]{1,4}"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=counter, unk_token="?", pad_token="?")
