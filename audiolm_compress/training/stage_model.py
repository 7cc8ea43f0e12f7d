"""What a stage trains of a model, what it begins with, and what it writes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiolm_compress.errors import DataError
from audiolm_compress.folders import check_replaceable
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.connector import Connector
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream_save import trained_tensors, upstream_family
from audiolm_compress.training.checkpoint import CHECKPOINT, learned, write_whole
from audiolm_compress.training.features import digest
from audiolm_compress.training.stage_config import StageConfig

STATE, MODEL, ORIGIN = "state", "model", "training.json"
# Keys that may change when a training goes on.
_FREE = {
    *("run.output_dir", "run.device", "run.log_freq", "run.log_with", "run.batch_size_eval"),
    *("run.feature_cache", "run.feature_cache_gib"),
}


def choose_trained(model: Salmonn, section: Mapping[str, Any]) -> None:
    """Let exactly the parameters require gradients that upstream trains under a section ``model``.

    Connector and LoRA are trained unless frozen; the LLM's own weights never are. The LayerNorms before the
    Q-Former always are, frozen Q-Former or not.
    """
    model.requires_grad_(False)
    if not section.get("freeze_whisper", True):
        model.speech_encoder.requires_grad_(True)
        model.speech_encoder.embed_positions.requires_grad_(False)  # constant sinusoids
    if not section.get("freeze_beats", True) and model.audio_encoder is not None:
        model.cast(torch.float32, ("audio_encoder",))  # its file may hold 16-bit weights
        model.audio_encoder.requires_grad_(True)
    model.connector.requires_grad_(True)
    if section.get("freeze_speech_QFormer", False):
        model.connector.qformer.requires_grad_(False)
    if section.get(f"freeze_speech_{upstream_family(section)}_proj", False):
        model.connector.projection.requires_grad_(False)
    for name, parameter in model.llm.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)


@torch.no_grad()
def initialise(connector: Connector) -> None:
    """Fresh weights as upstream's Q-Former has them, which is a BERT: normal of spread 0.02, biases 0."""
    for module in connector.qformer.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=0.02)
            module.bias.zero_()


def trained_counts(model: Salmonn) -> str:
    """How many parameters of each part are trained, in words."""
    counts: dict[str, int] = {}
    for name, parameter in learned(model).items():
        part = "LoRA" if ".lora_" in name else name.partition(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in counts.items()) + " parameters"


def write_pth(
    path: Path, model: Salmonn, optimizer: torch.optim.Optimizer | None, config: StageConfig, epoch: int
) -> None:
    """Write what is trained of ``model`` as upstream's ``.pth``, whole or not at all."""
    content = {
        "model": trained_tensors(model, upstream_family(config.model)),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "config": json.loads(json.dumps(without_token(config.content), default=str)),
        "scaler": None,
        "epoch": epoch,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: torch.save(content, file))


def without_token(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it may be written to disk: ``model.token`` opens a hub's account."""
    model = {key: value for key, value in content["model"].items() if key != "token"}
    return {**content, "model": model}


def check_folder(folder: Path, config: StageConfig) -> None:
    """Make sure that a training may write to ``folder``: a new or empty one, or one of the same training.

    A folder belongs to one config and one set of clips from its first checkpoint on.

    Raises:
        DataError: it holds something else; of another training, every key that differs is named.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / ORIGIN).exists()):
        raise DataError(
            f"output {folder} exists and holds no training, so it is left alone; "
            f"name another folder or remove it"
        )
    check_replaceable(folder / MODEL, store.is_model_folder)
    if not (folder / STATE / CHECKPOINT).exists():
        return
    before, now = json.loads((folder / ORIGIN).read_text(encoding="utf-8")), _origin(config)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise DataError(
            f"{folder} holds a training that differs in {', '.join(changed)}; "
            f"name another folder, or remove it to begin anew"
        )


def claim_folder(folder: Path, config: StageConfig) -> None:
    """Write down which training ``folder`` is for."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_origin(config), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / ORIGIN, lambda file: file.write(text.encode()))


def _origin(config: StageConfig) -> dict[str, str]:
    """What makes a training this one."""
    now = _flat(without_token(config.content))
    now = {key: value for key, value in now.items() if key not in _FREE and key not in config.ignored}
    annotation = Path(config.datasets.train_ann_path).read_text(encoding="utf-8")
    return {**now, "the training clips": digest(annotation)}


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
