"""What an upstream training config asks for: each key is used, of no matter here, or an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from audiolm_compress.errors import DataError
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.upstream_config import config_section
from audiolm_compress.settings import Settings

# Keys that upstream's configs have and that change nothing here.
NO_MATTER = {
    "run": {"exp_name", "num_workers", "use_distributed", "world_size", "dist_url", "gpu", "rank"},
    "datasets": {"test_ann_path", "test_ann_path_asr", "test_ann_path_aac", "whisper_path"},
    "model": {"low_resource", "device_8bit", "only_preprocessor"},
}


class Model(Settings):
    """``model``: what is trained. Strict, as the model is built from the values as they are written."""

    model_config = ConfigDict(strict=True)

    gemma_path: str | None = Field(None, description="Folder or hub id of a Gemma.")
    llama_path: str | None = Field(None, description="Folder or hub id of any other LLM.")
    whisper_path: str | None = Field(None, description="Folder or hub id of Whisper.")
    freeze_whisper: bool = Field(True, description="Whether Whisper stays as it is.")
    beats_path: str | None = Field(None, description="File of BEATs; empty for none.")
    freeze_beats: bool = Field(True, description="Whether BEATs stays as it is.")
    use_speech_qformer: bool = Field(True, alias="use_speech_Qformer", description="Must be true.")
    num_speech_query_token: int = Field(1, ge=1, description="Queries of a window.")
    freeze_speech_qformer: bool = Field(
        False, alias="freeze_speech_QFormer", description="Whether the Q-Former stays as it is."
    )
    window_level_qformer: bool = Field(
        True, alias="window_level_Qformer", description="Whether the Q-Former reads window by window."
    )
    second_per_window: float = Field(0.333333, gt=0, description="Length of a window.")
    second_stride: float = Field(0.333333, gt=0, description="From window to window.")
    speech_gemma_proj_model: str | None = Field(None, description="File of the projection alone.")
    speech_llama_proj_model: str | None = Field(None, description="File of the projection alone.")
    freeze_speech_gemma_proj: bool = Field(False, description="Whether the projection stays as it is.")
    freeze_speech_llama_proj: bool = Field(False, description="Whether the projection stays as it is.")
    lora: bool = Field(True, description="Whether the LLM has a LoRA.")
    lora_rank: int = Field(8, ge=1, description="Of its factors.")
    lora_alpha: int = Field(32, gt=0, description="It is multiplied by lora_alpha / lora_rank.")
    lora_dropout: float = Field(0.1, ge=0, lt=1, description="Of its input.")
    multi_prompt: bool = Field(False, description="Draw a prompt for each clip rather than once a task.")
    prompt_path: str | None = Field(None, description="File of the training prompts.")
    prompt_template: str | None = Field(None, description="What a prompt is put into.")
    test_prompt_path: str | None = Field(None, description="File of the prompts of validation.")
    max_txt_len: int = Field(128, ge=1, description="Most tokens of a text; the rest is cut off.")
    end_sym: str = Field("</s>", description="Ends every text.")
    ckpt: str | None = Field(None, description="Trained tensors to begin with; empty for a fresh start.")
    token: str | None = Field(None, description="Opens a hub's account; never written to disk.")


class Optims(Settings):
    """``run.optims``: AdamW and its learning rate."""

    max_epoch: int = Field(ge=1, description="Epochs.")
    warmup_steps: int = Field(0, ge=0, description="Batches of linear warm-up.")
    warmup_start_lr: float = Field(-1.0, description="Learning rate of the first batch; below 0: init_lr.")
    init_lr: float = Field(gt=0, description="Highest learning rate.")
    min_lr: float = Field(0.0, ge=0, description="Learning rate at the end.")
    weight_decay: float = Field(0.05, ge=0, description="Of matrices.")
    beta2: float = Field(0.999, gt=0, lt=1, description="AdamW's second decay rate; the first is 0.9.")


class Run(Settings):
    """``run``: how to train. The last four keys are this package's own."""

    seed: int = Field(42, ge=0, description="Of order, prompts, dropout and fresh weights.")
    output_dir: str = Field("outputs", description="Folder that is written.")
    evaluate: bool = Field(False, description="Must be false: measuring is the work of `bench`.")
    log_freq: int = Field(10, ge=1, description="Steps between two points of the curve.")
    epoch_based: bool = Field(False, description="Whether an epoch is all data once.")
    iters_per_epoch: int | None = Field(None, ge=1, description="Batches an epoch, unless epoch_based.")
    accum_grad_iters: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    batch_size_train: int = Field(ge=1, description="Clips in a batch of each process.")
    batch_size_eval: int = Field(8, ge=1, description="Clips in a batch of validation.")
    device: str | None = Field(None, description="Such as cpu or cuda:0.")
    amp: bool | Literal["bf16", "fp16"] = Field(
        False, description="16-bit products; true is bf16 where the device has it, else fp16."
    )
    optims: Optims = Field(description="AdamW and its learning rate.")
    clip_norm: float | None = Field(None, gt=0, description="Longest gradient; upstream has no limit.")
    log_with: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="Loggers.")
    feature_cache: str | None = Field(None, description="Folder for the states of frozen encoders.")
    feature_cache_gib: float = Field(50.0, gt=0, description="Most that this folder may hold.")


class Datasets(Settings):
    """``datasets``: where the clips are."""

    prefix: str | None = Field(None, description="Folder of the audio paths.")
    train_ann_path: str = Field(description="Annotation of the training clips.")
    valid_ann_path: str | None = Field(None, description="Annotation of the validation clips.")


@dataclass(frozen=True)
class StageConfig:
    """A whole training config, checked.

    Attributes:
        path: the file; relative paths in it are relative to it, but for those of folders that are written.
        content: as it was read, overrides applied.
        model: the section ``model``.
        run: the section ``run``.
        datasets: the section ``datasets``, its paths resolved.
        ignored: keys without a meaning here, such as ``run.num_workers``.
    """

    path: Path
    content: Mapping[str, Any]
    model: Mapping[str, Any]
    run: Run
    datasets: Datasets
    ignored: tuple[str, ...]


def stage_config(content: Mapping[str, Any], path: Path) -> StageConfig:
    """Check a config.

    Raises:
        DataError: lists every key that is unknown, missing or of a wrong value; or it is a recipe.
        BaselineError: a section is missing.
    """
    if "passes" in content:
        raise DataError(
            f"{path}: has `passes`, so it is a recipe and no training config; "
            f"`audiolm-compress run {path}` carries it out"
        )
    sections = {name: config_section(content, name, path) for name in ("model", "run", "datasets")}
    problems, ignored = [], []
    problems += [
        f"unknown section {name!r}; sections: model, datasets, run, generate"
        for name in content.keys() - {"model", "run", "datasets", "generate"}
    ]
    kept: dict[str, dict[str, Any]] = {}
    allowed = {"model": _keys(Model), "run": _keys(Run), "datasets": _keys(Datasets)}
    for name, section in sections.items():
        kept[name] = {key: value for key, value in section.items() if key not in NO_MATTER[name]}
        ignored += [f"{name}.{key}" for key in section if key in NO_MATTER[name]]
        problems += [_unknown(f"{name}.", key, allowed[name]) for key in kept[name].keys() - allowed[name]]
    optims = kept["run"].get("optims")
    if isinstance(optims, dict):
        problems += [_unknown("run.optims.", key, _keys(Optims)) for key in optims.keys() - _keys(Optims)]
    generate, known = content.get("generate") or {}, _keys(DecodeSettings)
    problems += [_unknown("generate.", key, known) for key in generate.keys() - known]
    run, wrong_run = _validated(Run, kept["run"], "run")
    datasets, wrong_datasets = _validated(Datasets, kept["datasets"], "datasets")
    _, wrong_model = _validated(Model, kept["model"], "model")
    problems += wrong_run + wrong_datasets + wrong_model
    if run is not None:
        if run.evaluate:
            problems.append("run.evaluate: true measures and does not train; use `audiolm-compress bench`")
        if run.iters_per_epoch is None and not run.epoch_based:
            problems.append("run.iters_per_epoch is missing; give it, or set run.epoch_based: true")
    if problems or run is None or datasets is None:
        raise DataError(f"{path}:\n  " + "\n  ".join(sorted(problems)))
    root = path.parent
    resolved = {
        key: None if value is None else str(root / value) for key, value in datasets.model_dump().items()
    }
    return StageConfig(path, content, kept["model"], run, Datasets(**resolved), tuple(ignored))


def upstream_rate(batch: int, batches: int, optims: Optims) -> float:
    """Upstream's learning rate at a batch, counted from 0, of ``batches`` in all.

    Linear from ``warmup_start_lr`` to ``init_lr`` over the warm-up; then the cosine from ``init_lr`` to
    ``min_lr`` of the whole training, which therefore does not begin at its top.
    """
    start = optims.warmup_start_lr if optims.warmup_start_lr >= 0 else optims.init_lr
    if batch < optims.warmup_steps:
        return min(optims.init_lr, start + (optims.init_lr - start) * batch / optims.warmup_steps)
    cosine = (1 + math.cos(math.pi * batch / batches)) / 2
    return optims.min_lr + (optims.init_lr - optims.min_lr) * cosine


def _keys(kind: type[Settings]) -> set[str]:
    """What a section may hold, as upstream writes it."""
    return {field.alias or name for name, field in kind.model_fields.items()}


def _unknown(where: str, key: str, allowed: set[str]) -> str:
    close = get_close_matches(str(key), allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key {where}{key}; {hint}keys: {', '.join(sorted(allowed))}"


def _validated(kind: type[Any], values: dict[str, Any], name: str) -> tuple[Any, list[str]]:
    try:
        return kind.model_validate(values), []
    except ValidationError as error:
        return None, [
            f"{'.'.join((name, *map(str, entry['loc'])))}: {entry['msg']}"
            + ("" if entry["type"] == "missing" else f", found {entry['input']!r}")
            for entry in error.errors()
            if entry["type"] != "extra_forbidden"  # these are listed with what is allowed
        ]
