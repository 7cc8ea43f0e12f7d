"""What a recipe will give and cost, before anything is loaded or computed.

The baseline is built without weights (``salmonn/outline.py``), every pass does to it in sizes what it will do
to the model (``Pass.predict``), and after each of them the layers are counted. From the counts follow floors:
no program can be faster than reading the bytes once and doing the operations at the device's best rate.

The estimate of a run's time is that: an estimate, calibrated on a timed run (``planning/run_time.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.devices import choose_device
from audiolm_compress.measurement.rounds import all_runs
from audiolm_compress.planning.devices import NAMED_DEVICES, Device, probe_device
from audiolm_compress.planning.floors import Floor, tpot_bound, ttft_bound
from audiolm_compress.planning.layers import Layer, file_bytes
from audiolm_compress.planning.memory import peak_activations
from audiolm_compress.planning.run_time import Answers, around_seconds, in_practice, work_seconds
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.planning.work import CLIP_SECONDS, Clip, PartCost, part_costs, read_per_token
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.recipe_steps import at_pass, with_baseline
from audiolm_compress.run_data import calibration_file, clip_source, section, training_file
from audiolm_compress.salmonn.outline import outline_model


@dataclass(frozen=True)
class Stage:
    """The model after a pass, or before all of them.

    Attributes:
        name: of the pass; ``baseline`` first.
        parts: part -> parameters, bytes and FLOPs until the first token of a 10 s clip.
        file_bytes: of ``model.safetensors``, if it were saved now.
        read_per_token: bytes that one further token reads.
        prompt_tokens: positions that the LLM reads before its first token.
        activation_bytes: memory beside the weights, at the worst moment.
        pass_flops: operations of the pass itself, by the type they are computed in.
        notes: what was assumed.
    """

    name: str
    parts: Mapping[str, PartCost]
    file_bytes: int
    read_per_token: int
    prompt_tokens: int
    activation_bytes: int
    pass_flops: Mapping[torch.dtype, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(part.bytes for part in self.parts.values())

    @property
    def parameters(self) -> int:
        """Weights and biases, tied ones once."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def flops(self) -> int:
        """Until the first token of a 10 s clip."""
        return sum(sum(part.flops.values()) for part in self.parts.values())


@dataclass(frozen=True)
class Plan:
    """What ``plan`` found.

    Attributes:
        recipe: its name.
        baseline: where the baseline comes from.
        stages: the baseline, then one a pass.
        floors: one a device, this machine first.
        disk_bytes: that a run writes.
        disk_free: on the disk of the working directory.
        seconds: estimate of a run on this machine, by kind of work.
        notes: files that were missing and what stands in for them.
    """

    recipe: str
    baseline: str
    stages: tuple[Stage, ...]
    floors: tuple[Floor, ...]
    disk_bytes: int
    disk_free: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; times in seconds, sizes in bytes."""
        return {
            "recipe": self.recipe,
            "baseline": self.baseline,
            "clip_seconds": CLIP_SECONDS,
            "stages": [_stage_dict(stage) for stage in self.stages],
            "floors": [
                {
                    "device": floor.device.name,
                    "measured": floor.device.measured,
                    "bandwidth": floor.device.bandwidth,
                    "rates": _named(floor.device.rates),
                    "ttft_before": asdict(floor.ttft[0]),
                    "ttft_after": asdict(floor.ttft[1]),
                    "tpot_before": asdict(floor.tpot[0]),
                    "tpot_after": asdict(floor.tpot[1]),
                }
                for floor in self.floors
            ],
            "disk_bytes": self.disk_bytes,
            "disk_free": self.disk_free,
            "estimated_seconds": dict(self.seconds),
            "notes": list(self.notes),
        }


def plan(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    baseline: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> Plan:
    """Predict a recipe's effect and cost from configs alone.

    Args:
        recipe: YAML file, mapping or ``Recipe``.
        baseline: in place of the recipe's. Weights need not be there: a folder of ours needs its
            ``config.json``, an upstream YAML the ``config.json`` of its Whisper and LLM.
        overrides: changes to the recipe, such as ``passes.1.bits=3``.
        device: the one that is probed, for about a second; default: cuda if there is one.

    Raises:
        AudioLMError: recipe or baseline cannot be used, or a pass is impossible for its sizes.

    Example:
        >>> predicted = plan("recipes/gemma2_4bit.yaml")  # doctest: +SKIP
        >>> round(predicted.stages[-1].bytes / predicted.stages[0].bytes, 2)  # doctest: +SKIP
        0.29
    """
    recipe = with_baseline(load_recipe(recipe, overrides), baseline)
    device, outline = choose_device(device), outline_model(recipe.baseline)
    sketch = Sketch(
        outline.model,
        calibration_texts(recipe),
        outline.tokenizer_known,
        device,
        training=training_texts(recipe),
    )
    before = sketch.layers(), Clip.of(sketch.model)
    stages = [stage_of("baseline", sketch), *predict_passes(recipe, sketch)]
    after = sketch.layers(), Clip.of(sketch.model)
    here = probe_device(device)
    # The parts that the model began with and those that it ends with need not be the same.
    floors = tuple(
        Floor(
            one,
            (ttft_bound(one, stages[0].parts, before[0]), ttft_bound(one, stages[-1].parts, after[0])),
            (tpot_bound(one, *before), tpot_bound(one, *after)),
        )
        for one in (here, *NAMED_DEVICES)
    )
    return Plan(
        recipe.name,
        recipe.baseline,
        tuple(stages),
        floors,
        # The new folder is written beside one that it replaces; reports and answers are small.
        disk_bytes=stages[-1].file_bytes + 20 * 2**20,
        disk_free=shutil.disk_usage(Path.cwd()).free,
        seconds=estimate(recipe, here, stages, (before, after)),
        notes=outline.notes,
    )


def predict_passes(recipe: Recipe, sketch: Sketch) -> list[Stage]:
    """Let every pass predict on ``sketch``; the model after each.

    Raises:
        PassError: a pass is impossible for these sizes; says its position.
    """
    stages = []
    for position, entry in enumerate(recipe.passes, start=1):
        sketch.begin()
        before = sketch.layers(), Clip.of(sketch.model)
        with at_pass(recipe, position):
            entry.predict(sketch)
        if before == (sketch.layers(), Clip.of(sketch.model)) and not sketch.notes:
            sketch.notes.append("no size will change")
        stages.append(stage_of(entry.kind, sketch))
    return stages


def calibration_texts(recipe: Recipe) -> list[Example]:
    """The clips that the passes will get, without their audio, from the annotation alone."""
    with section("calibration"):
        return _texts(calibration_file(recipe.data), recipe.data.calibration_clips)


def training_texts(recipe: Recipe) -> list[Example]:
    """The same of the clips that passes which learn will get besides; empty if there are none."""
    file = training_file(recipe)
    if file is None:
        return []
    with section("training"):
        return _texts(file, recipe.data.training_clips)


def _texts(annotation: str, limit: int | None) -> list[Example]:
    entries = read_annotation(annotation)
    chosen = [entries[index] for index in sorted(in_turn(entries, limit or len(entries)))]
    silence = torch.empty(0)
    return [Example(e.id, silence, e.task, e.text, e.texts, e.Q, e.file) for e in chosen]


def stage_of(name: str, sketch: Sketch) -> Stage:
    """The model of ``sketch`` in figures, and what the pass at hand has said."""
    layers, clip, model = sketch.layers(), Clip.of(sketch.model), sketch.model
    return Stage(
        name,
        part_costs(layers, clip, model),
        file_bytes(layers),
        read_per_token(layers, clip),
        clip.prompt,
        peak_activations(model, layers, clip),
        sketch.work,
        tuple(sketch.notes),
    )


def estimate(
    recipe: Recipe,
    here: Device,
    stages: Sequence[Stage],
    sides: tuple[tuple[Sequence[Layer], Clip], tuple[Sequence[Layer], Clip]],
) -> dict[str, float]:
    """Seconds of a run by kind of work.

    Args:
        recipe: says how much is measured.
        here: the device as probed.
        stages: the baseline and the model after each pass.
        sides: layers and clip of the baseline and of the model after all passes.
    """
    device, benchmark = in_practice(here), recipe.benchmark
    clips = sum(len(read_annotation(file)) for file in clip_source(recipe.data).test)
    clips = min(clips, benchmark.max_clips or clips)
    latency, protocol = benchmark.latency, benchmark.noise_protocol
    on_clips = min(clips, latency.clips)
    timed = all_runs(on_clips, latency.warmup, latency.rounds)
    noise = all_runs(protocol.iterations, protocol.warmup, latency.rounds)
    batched = sum(
        size * all_runs(-(-on_clips // size), latency.warmup, latency.rounds) for size in latency.batch_sizes
    )
    answers = Answers(clips + timed + batched, noise, timed if latency.transformers else 0)
    around = measuring = 0.0
    for stage, (layers, clip) in zip((stages[0], stages[-1]), sides, strict=True):
        around += around_seconds(stage.file_bytes)
        first = ttft_bound(device, stage.parts, layers).both
        measuring += answers.seconds(first, tpot_bound(device, layers, clip).both, layers)
    return {
        "loading, saving, starting": around,
        "measuring both models": measuring,
        "passes": sum(work_seconds(device, stage.pass_flops) for stage in stages),
    }


def _stage_dict(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "parameters": stage.parameters,
        "bytes": stage.bytes,
        "file_bytes": stage.file_bytes,
        "flops": stage.flops,
        "bytes_read_per_token": stage.read_per_token,
        "prompt_tokens": stage.prompt_tokens,
        "activation_bytes": stage.activation_bytes,
        "parts": {
            name: {"parameters": part.parameters, "bytes": part.bytes, "flops": _named(part.flops)}
            for name, part in stage.parts.items()
        },
        "notes": list(stage.notes),
    }


def _named(by_type: Mapping[torch.dtype, float]) -> dict[str, float]:
    return {str(dtype).removeprefix("torch."): value for dtype, value in by_type.items()}
