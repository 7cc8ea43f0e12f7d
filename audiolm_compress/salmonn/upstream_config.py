"""What an upstream YAML config says, without the weights that it names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from audiolm_compress.errors import BaselineError, DataError
from audiolm_compress.salmonn.connector import ConnectorConfig, window_frames
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.hub import is_hub_id
from audiolm_compress.salmonn.prompts import AUDIO_SLOT, Prompts
from audiolm_compress.salmonn.upstream_names import our_name
from audiolm_compress.untrusted import read_json, size_problems
from audiolm_compress.untrusted.yaml_text import compose, read_yaml_text

HEAD_WIDTH = (
    64  # of every Q-Former: the checkpoint does not tell the number of heads, bert-base has 64 a head
)


def read_config(path: Path) -> dict[str, Any]:
    """The whole file.

    Raises:
        BaselineError: it cannot be read, or is no mapping.
    """
    try:
        text = read_yaml_text(path)
        compose(text)
        config = yaml.safe_load(text)
    # ValueError: also of dates that do not exist, which PyYAML passes on
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BaselineError(f"baseline config {path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise BaselineError(f"baseline config {path}: expected a mapping with a section 'model'")
    if problems := size_problems(config):
        raise BaselineError(f"{path}: sizes that cannot be meant:\n  " + "\n  ".join(problems))
    return config


def config_section(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """One section of the file.

    Raises:
        BaselineError: it is missing.
    """
    section = config.get(name)
    if not isinstance(section, dict):
        raise BaselineError(
            f"baseline config {path}: section {name!r} is missing; found {', '.join(map(str, config))}"
        )
    return section


def evaluation_clips(path: Path, kind: str) -> tuple[str, str | None] | None:
    """The annotation and the folder of audio that an upstream config is evaluated on; None: it names none.

    Args:
        path: the config; paths in it are relative to it.
        kind: ``asr`` or ``aac``, which some configs have an annotation each for.

    Raises:
        BaselineError: no such config.
    """
    section = read_config(path).get("datasets") or {}
    # Upstream looks for the common one first.
    name = section.get("test_ann_path") or section.get(f"test_ann_path_{kind}")
    if not name:
        return None
    prefix = section.get("prefix")
    return str(path.parent / name), None if prefix is None else str(path.parent / prefix)


def model_section(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The section ``model``, which must describe a kind of model that exists.

    Raises:
        BaselineError: it is missing, or asks for a model without a Q-Former.
    """
    section = config_section(config, "model", path)
    if not section.get("use_speech_Qformer", True):
        raise BaselineError(
            f"{path}: use_speech_Qformer: false has no implementation upstream either; set it to true"
        )
    return section


def model_source(section: Mapping[str, Any], key: str, root: Path, path: Path) -> str:
    """The directory or hub id under ``key``; a path that does not exist is no hub id.

    Raises:
        BaselineError: nothing there.
    """
    value = section.get(key)
    if not value:
        raise BaselineError(f"{path}: model.{key} is missing")
    local = root / value
    if local.exists():
        return str(local)
    if is_hub_id(value):
        return str(value)
    raise BaselineError(
        f"{path}: model.{key}: {local} does not exist, and {value!r} is no hub id (owner/name)"
    )


def llm_source(section: Mapping[str, Any], root: Path, path: Path) -> str:
    """The directory or hub id of the LLM."""
    return model_source(section, "gemma_path" if "gemma_path" in section else "llama_path", root, path)


def checkpoint_names(section: Mapping[str, Any]) -> list[str]:
    """The files of trained tensors, in the order in which they overwrite each other."""
    # The projection may come in a file of its own; the checkpoint has the last word.
    names = [value for key, value in section.items() if re.fullmatch(r"speech_(gemma|llama)_proj_model", key)]
    return [str(name) for name in [*names, section.get("ckpt")] if name]


def lora_arguments(section: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``add_lora``; which layers are adapted is read from the names of ``trained``."""
    adapted = {name.split(".lora_A.")[0].rpartition(".")[2] for name in trained if ".lora_A." in name}
    return {
        "r": section.get("lora_rank", 8),
        "lora_alpha": section.get("lora_alpha", 32),
        "lora_dropout": section.get("lora_dropout", 0.1),
        # Upstream leaves the choice to peft, whose choice for Llama and Gemma is these two.
        "target_modules": sorted(adapted) or ["q_proj", "v_proj"],
    }


def text_arguments(config: Mapping[str, Any], section: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of ``Salmonn`` that concern text: prompts, decoding and how training texts end.

    Raises:
        BaselineError: see ``read_prompts`` and ``read_decode``.
    """
    return {
        "prompts": read_prompts(section, path.parent, path),
        "decode": {"default": read_decode(config, section, path)},
        "end_symbol": section.get("end_sym", "</s>"),
        "max_text_tokens": section.get("max_txt_len", 128),
    }


def connector_config(
    section: Mapping[str, Any],
    trained: Mapping[str, tuple[int, ...]],
    *,
    speech_width: int,
    audio_width: int,
    llm_width: int,
) -> ConnectorConfig:
    """Sizes that the config does not name are read from the trained shapes; else they are bert-base's."""
    shapes = {our_name(name): shape for name, shape in trained.items()}
    hidden = shapes.get("connector.qformer.query_tokens", (1, 1, 768))[-1]
    indices = [
        int(match[1]) for name in shapes if (match := re.match(r"connector\.qformer\.layers\.(\d+)\.", name))
    ]
    whole = not section.get("window_level_Qformer", True)
    return ConnectorConfig(
        speech_width=speech_width,
        audio_width=audio_width,
        llm_width=llm_width,
        hidden=hidden,
        heads=max(1, hidden // HEAD_WIDTH),
        layers=max(indices, default=1) + 1,
        intermediate=shapes.get("connector.qformer.layers.0.intermediate.weight", (3072, hidden))[0],
        queries=section.get("num_speech_query_token", 1),
        window=0 if whole else window_frames(section.get("second_per_window", 0.333333)),
        stride=0 if whole else window_frames(section.get("second_stride", 0.333333)),
    )


def read_prompts(section: Mapping[str, Any], root: Path, path: Path) -> Prompts:
    """Template and instructions.

    Raises:
        BaselineError: a prompt file cannot be read, or a prompt has no place for the audio.
    """
    train: dict[str, tuple[str, ...]] = {}
    if section.get("prompt_path"):
        for task, many in _read_json(root / section["prompt_path"]).items():
            # Upstream drops training prompts that have no place for the audio.
            kept = tuple(prompt for prompt in many if AUDIO_SLOT in prompt)
            if len(kept) < len(many):
                warnings.warn(
                    f"{task}: {len(many) - len(kept)} training prompts without {AUDIO_SLOT} are not used",
                    stacklevel=2,
                )
            train[task] = kept
    test = _read_json(root / section["test_prompt_path"]) if section.get("test_prompt_path") else {}
    try:
        return Prompts(section.get("prompt_template") or "{}", test, train)
    except DataError as error:
        raise BaselineError(f"{path}: {error}") from error


def read_decode(config: Mapping[str, Any], section: Mapping[str, Any], path: Path) -> DecodeSettings:
    """The settings of the section ``generate``.

    Raises:
        BaselineError: a value is out of bounds.
    """
    known = {
        key: value
        for key, value in (config.get("generate") or {}).items()
        if key in DecodeSettings.model_fields
    }
    try:
        return DecodeSettings.model_validate({"end_sym": section.get("end_sym", "</s>")} | known)
    except ValueError as error:
        raise BaselineError(f"{path}: section generate: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BaselineError(f"prompt file {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BaselineError(f"prompt file {path}: expected an object that maps tasks to prompts")
    for task, prompts in content.items():
        texts = prompts if isinstance(prompts, list) else [prompts]
        if not all(isinstance(text, str) for text in texts):
            raise BaselineError(f"prompt file {path}: the prompts of task {task!r} must be texts")
    return content
