"""``audiolm-compress train``: upstream's two stages from its own YAML."""

from __future__ import annotations

from pathlib import Path

import click

from audiolm_compress.cli import launched
from audiolm_compress.cli.options import device_option, quiet_option, threads_option

INTERRUPTED = 130
EXAMPLES = """\b
Examples:
  audiolm-compress train stage1.yaml
  audiolm-compress train stage2.yaml --set model.ckpt=out/stage1/checkpoint_best.pth
  audiolm-compress train stage1.yaml --set run.batch_size_train=2 --feature-cache cache

\b
Several GPUs, a batch of batch_size_train clips each:
  accelerate launch --multi_gpu --num_processes 4 -m audiolm_compress train stage1.yaml
Without a GPU the same command starts processes that talk through gloo
(accelerate's own --cpu starts one process, whatever --num_processes says).

\b
The config is upstream's (SALMONN, audiolm-trainer):
  model:     paths, what is frozen, LoRA, prompts; ckpt is stage 1's .pth for
             stage 2, and empty for stage 1
  datasets:  train_ann_path, valid_ann_path, prefix
  run:       output_dir, batch_size_train, iters_per_epoch or epoch_based,
             accum_grad_iters, amp, optims {max_epoch, warmup_steps,
             warmup_start_lr, init_lr, min_lr, weight_decay, beta2}
  and of this package: run.clip_norm, run.log_with ([tensorboard, wandb]),
             run.feature_cache, run.feature_cache_gib
Misspelt keys are errors; keys without a meaning here are listed. Paths to read
are relative to the config.

\b
The folder written holds checkpoint_<epoch>.pth and checkpoint_best.pth in
upstream's layout, and in model/ a folder for `run`, `bench` and `transcribe`.
"""


@click.command(epilog=EXAMPLES)
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--out", help="Folder to write. Default: the config's run.output_dir.")
@click.option(
    "--feature-cache",
    help="Keep the states of frozen encoders here, so that later epochs and runs need not compute them.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    help="Change an entry of the config; repeatable.",
)
@quiet_option
@device_option
@threads_option
def train(
    config: str,
    out: str | None,
    feature_cache: str | None,
    overrides: tuple[str, ...],
    quiet: bool,
    device: str | None,
) -> int:
    """Train connector and LoRA by an upstream config.

    Stage 1 aligns a fresh connector with the LLM, stage 2 tunes it on many tasks with prompts drawn from
    model.prompt_path. The same command again goes on where it was cut off. A folder
    that holds anything but this training is left alone.
    """
    from rich.console import Console

    from audiolm_compress.cli.progress import shown_progress
    from audiolm_compress.recipe_source import Source
    from audiolm_compress.salmonn.upstream_config import read_config
    from audiolm_compress.training.shards import disband, processes
    from audiolm_compress.training.stage import BEST, train_stage
    from audiolm_compress.training.stage_config import stage_config
    from audiolm_compress.training.stage_model import MODEL

    main = processes().is_main_process
    path = Path(config)
    source = Source.of_mapping(read_config(path))
    for override in overrides:
        source.set(override)
    checked = stage_config(source.content, path)
    try:
        with shown_progress(quiet) as progress:
            stage = train_stage(
                checked,
                out=Path(out) if out else None,
                device=device,
                feature_cache=Path(feature_cache) if feature_cache else None,
                display=progress if main else None,
            )
    except KeyboardInterrupt:
        if launched.another_failed():  # the launcher then ends all
            raise
        if main:
            click.echo("interrupted; the same command goes on from the last checkpoint", err=True)
        return INTERRUPTED
    disband()
    if not main:
        return 0
    if quiet:
        click.echo(f"Saved {stage.folder / BEST} and the model in {stage.folder / MODEL}")
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for note in stage.notes:
        console.print(f"- {note}")
    for point in stage.result.curve:
        if "validation" in point:
            best = "  best" if point["step"] == stage.result.best_step else ""
            console.print(f"step {point['step']:.0f}: validation loss {point['validation']:.4f}{best}")
    losses = [point["loss"] for point in stage.result.curve if "loss" in point]
    console.print(f"training loss {losses[0]:.4f} -> {losses[-1]:.4f} in {stage.result.steps} steps")
    console.print(f"Saved {stage.folder / BEST} and the model in {stage.folder / MODEL}")
    return 0
