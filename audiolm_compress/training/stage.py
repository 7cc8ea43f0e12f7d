"""Upstream's two training stages, from its own YAML: alignment, then instruction tuning.

Both train the connector and the LoRA of the LLM on clips with reference texts, by the same means; they
differ in their data and in what they begin with. Stage 1 begins with a fresh connector and teaches it to
speak to the LLM (recognition and captions); stage 2 begins with stage 1's ``.pth`` (``model.ckpt``) and has
many tasks, each with prompts to draw from. Which parameters are trained, AdamW's groups, the learning rate
and the text that is learned are upstream's. What differs: clips are cut at 30 s, frozen encoders stay in
evaluation mode, a bad audio file is an error, each token of a step weighs the same, and the best weights are
those of the lowest validation loss.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from accelerate.utils import set_seed
from torch import nn

from audiolm_compress.errors import DataError
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import load_upstream
from audiolm_compress.salmonn.upstream_config import checkpoint_names
from audiolm_compress.training.checkpoint import TrainResult, learned, show_losses
from audiolm_compress.training.features import FeatureCache
from audiolm_compress.training.loop import Mean, train
from audiolm_compress.training.settings import TrainSettings
from audiolm_compress.training.shards import on_main, own_device, processes, shard, total
from audiolm_compress.training.stage_config import Run, StageConfig, upstream_rate
from audiolm_compress.training.stage_data import (
    EncoderStates,
    check_prompts,
    prepare,
    read_entries,
    sampled_around,
    shuffled,
)
from audiolm_compress.training.stage_model import (
    MODEL,
    STATE,
    check_folder,
    choose_trained,
    claim_folder,
    initialise,
    trained_counts,
    write_pth,
)

BEST = "checkpoint_best.pth"
_SAVE_EVERY = 200  # steps that a killed training may lose


class Display(Protocol):
    """Shows how far the training is."""

    def start(self, description: str, total: int) -> None:
        """Work of ``total`` steps begins."""

    def advance(self, steps: int = 1) -> None:
        """Some of them are done."""

    def figure(self, name: str, value: float) -> None:
        """A loss as it is now."""


@dataclass(frozen=True)
class Stage:
    """What came of a stage.

    Attributes:
        result: steps, curve and best validation.
        folder: holds ``checkpoint_best.pth`` and one ``checkpoint_<epoch>.pth`` an epoch in upstream's
            layout, and the model as a folder of ours in ``model``.
        notes: choices a reader should know of.
    """

    result: TrainResult
    folder: Path
    notes: tuple[str, ...]


def train_stage(
    config: StageConfig,
    *,
    out: Path | None = None,
    device: str | None = None,
    feature_cache: Path | None = None,
    display: Display | None = None,
) -> Stage:
    """Train as ``config`` says, or go on where the same call was cut off.

    Args:
        config: from ``stage_config``.
        out: folder to write in place of ``run.output_dir``.
        device: in place of ``run.device``; several processes take a card each where this is cuda.
        feature_cache: folder in place of ``run.feature_cache``.
        display: shows the main process's steps.

    Raises:
        DataError: data, prompts or settings cannot be used, or the folder holds something else.
        BaselineError: a part of the model cannot be loaded.
        AudioLMError: there is no such device.
    """
    run, optims = config.run, config.run.optims
    folder = out or Path(run.output_dir)
    cache_folder = feature_cache or (Path(run.feature_cache) if run.feature_cache else None)
    if cache_folder is None and "feature_cache_gib" in run.model_fields_set:
        raise DataError(
            f"{config.path}: run.feature_cache_gib limits the folder run.feature_cache, which is unset; set "
            "it, or leave the limit out"
        )
    entries = read_entries(config.datasets.train_ann_path, config.datasets.prefix)
    valid = config.datasets.valid_ann_path
    valid_entries = read_entries(valid, config.datasets.prefix) if valid else []
    where = torch.device(own_device(device or run.device))
    on_main(lambda: check_folder(folder, config))
    set_seed(run.seed)
    begins_anew = not checkpoint_names(config.model)
    model = load_upstream(config.path, allow_missing=begins_anew, config=config.content)
    if begins_anew:
        initialise(model.connector)
    check_prompts(model.prompts.train, entries)
    valid_around = [model.prompts.around(entry.task, None, entry.Q) for entry in valid_entries]
    choose_trained(model, config.model)
    model.to(where)
    precision = _precision(run, where)
    notes = [
        f"trained: {trained_counts(model)}",
        f"{len(entries)} clips to train on, {len(valid_entries)} to validate on",
        f"on {where} in {'32 bit' if precision == 'no' else precision}, "
        f"{processes().num_processes} process(es)",
    ]
    notes += [f"ignored, without a meaning here: {', '.join(config.ignored)}"] if config.ignored else []
    if len(entries) < run.batch_size_train:
        notes.append(f"batches of {len(entries)} clips in place of {run.batch_size_train}: there are no more")
    notes += [] if valid else ["no validation clips: the last weights are taken for the best"]
    cache = None if cache_folder is None else FeatureCache(cache_folder, int(run.feature_cache_gib * 2**30))
    states = None if cache is None else _states(model, cache)

    plan = partial(shuffled, len(entries), run.batch_size_train, run.seed)
    epoch_batches = len(plan(0)) // processes().num_processes if run.epoch_based else run.iters_per_epoch
    if not epoch_batches or epoch_batches < run.accum_grad_iters:
        raise DataError(
            f"{config.path}: an epoch has {epoch_batches} batches for each process, fewer than "
            f"run.accum_grad_iters {run.accum_grad_iters}; give more data or a smaller batch_size_train"
        )
    batches = epoch_batches * optims.max_epoch
    on_main(lambda: claim_folder(folder, config))

    def loss(model: nn.Module, batch: list[int]) -> Mean:
        assert isinstance(model, Salmonn)
        rng = random.Random(int(torch.randint(2**31, ())))
        chosen = [entries[index] for index in batch]
        around = sampled_around(model, chosen, rng, each=config.model.get("multi_prompt", False))
        inputs, count = prepare(model, chosen, around, states)
        return Mean(model.text_loss(inputs), count)

    def validate(model: nn.Module) -> float:
        assert isinstance(model, Salmonn)
        sums = torch.zeros(2, dtype=torch.float64, device=where)
        size = run.batch_size_eval
        for start in shard(range(0, len(valid_entries), size)):
            batch = slice(start, start + size)
            inputs, count = prepare(model, valid_entries[batch], valid_around[batch], states)
            sums += torch.stack((model.text_loss(inputs).double() * count, sums.new_tensor(count)))
        value, tokens = total(sums).tolist()
        return float(value / tokens)

    def after_step(result: TrainResult, optimizer: torch.optim.Optimizer) -> None:
        done = result.steps * run.accum_grad_iters
        epoch = done // epoch_batches - 1
        if epoch > (done - run.accum_grad_iters) // epoch_batches - 1:
            write_pth(folder / f"checkpoint_{epoch}.pth", model, optimizer, config, epoch)
        if display is not None:  # the first step after a resumption is more than one
            display.advance(result.steps - shown[0])
            shown[0] = result.steps
            show_losses(result, display.figure)

    shown = [0]
    steps = batches // run.accum_grad_iters
    if display is not None:
        display.start("training", steps)
    result = train(
        model,
        plan,
        loss,
        TrainSettings(
            steps=steps,
            learning_rate=optims.init_lr,
            betas=(0.9, optims.beta2),
            weight_decay=optims.weight_decay,
            clip_norm=run.clip_norm,
            accumulation=run.accum_grad_iters,
            mixed_precision=precision,
            log_every=run.log_freq,
            log_with=run.log_with,
            validate_every=epoch_batches // run.accum_grad_iters,
            save_every=min(_SAVE_EVERY, epoch_batches // run.accum_grad_iters),
            seed=run.seed,
        ),
        folder=folder / STATE,
        validate=validate if valid_entries else None,
        after_step=after_step,
        rate=lambda step, settings, seconds: upstream_rate(step * run.accum_grad_iters, batches, optims),
    )
    if cache is not None:
        notes.append(f"encoder states of each clip alone in {cache.folder}: {cache.summary()}")
    if processes().is_main_process:
        best = result.best_step or result.steps
        epoch = max(0, best * run.accum_grad_iters // epoch_batches - 1)
        write_pth(folder / BEST, model, None, config, epoch)
        store.save(model.requires_grad_(False), folder / MODEL)
    processes().wait_for_everyone()
    return Stage(result, folder, tuple(notes))


def _states(model: Salmonn, cache: FeatureCache) -> EncoderStates:
    encoders = [model.speech_encoder, model.audio_encoder]
    if any(learned(encoder) for encoder in encoders if encoder is not None):
        raise DataError(
            "feature_cache: encoder states change while an encoder is trained; "
            "set model.freeze_whisper and model.freeze_beats to true, or leave the cache out"
        )
    return EncoderStates(model, cache)


def _precision(run: Run, device: torch.device) -> Literal["no", "bf16", "fp16"]:
    if not run.amp:
        return "no"
    if run.amp is not True:
        return run.amp
    return "fp16" if device.type == "cuda" and not torch.cuda.is_bf16_supported() else "bf16"
