"""What the outcome of a stage depends on, as a hash: equal keys mean equal bits.

The key of a pass is made of the key before it, its settings and its seed; the first, of the baseline's own
content, the clips, this package's source and the machine. Contents count, not names: a checkpoint that was
moved is the same, one that was overwritten is not. Of files that a setting names, such as a sentence encoder,
only the name counts.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

import audiolm_compress
from audiolm_compress.data.example import Example
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.passes.base import Pass
from audiolm_compress.recipe import Recipe
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.training.features import digest
from audiolm_compress.training.shards import processes

_PACKAGE = Path(audiolm_compress.__file__).parent
# What may be another one in a later process without another bit: a commit is in the sources' hash.
_FREE = ("commit", "platform", "memory_bytes", "seed")


def stage_keys(
    recipe: Recipe,
    baseline: Salmonn,
    calibration: Sequence[Example],
    training: Sequence[Example],
) -> list[str]:
    """The keys of the baseline and of what each pass leaves, so one more than there are passes.

    Args:
        recipe: names the passes.
        baseline: as loaded, on the device of the run.
        calibration: the run's clips.
        training: its clips for learning alone.
    """
    keys = [
        digest(
            package_digest(),
            machine_digest(baseline.device),
            model_digest(baseline),
            clips_digest(calibration),
            clips_digest(training),
        )
    ]
    for position, entry in enumerate(recipe.passes, start=1):
        keys.append(digest(keys[-1], pass_seed(recipe, position), entry_digest(entry)))
    return keys


def pass_seed(recipe: Recipe, position: int) -> int:
    """The seed of the pass at a position (from 1): each has its own, whatever was drawn before it."""
    return recipe.seed * 1_000 + position


def entry_digest(entry: Pass) -> str:
    """Of a pass: its settings with all defaults and, of one from elsewhere, the file that defines it.

    One that no file defines, as it was typed at a prompt, is never the same.
    """
    try:
        source = Path(inspect.getfile(type(entry)))
        foreign = "" if source.is_relative_to(_PACKAGE) else source.read_text(encoding="utf-8")
    except (OSError, TypeError):
        foreign = uuid4().hex
    return digest(entry.model_dump_json(by_alias=True), foreign)


def model_digest(model: Salmonn) -> str:
    """Of all that makes a model: config, tokenizer, feature extractor and tensors."""
    with TemporaryDirectory() as folder:
        model.tokenizer.save_pretrained(folder)
        model.feature_extractor.save_pretrained(folder)
        files = [(path.name, path.read_text(encoding="utf-8")) for path in sorted(Path(folder).iterdir())]
    config = json.dumps(store.describe(model), sort_keys=True)
    return digest(config, *(part for file in files for part in file), tensors_digest(model))


def tensors_digest(model: Salmonn) -> str:
    """Of a model's parameters and buffers, with those that are computed and not saved.

    Weights that a kernel has rearranged beyond reading are in the state dict as they were.
    """
    plain = {name: buffer for name, buffer in model.named_buffers() if buffer.layout is torch.strided}
    tensors: dict[str, Tensor] = {**plain, **model.state_dict()}
    parts: list[str | Tensor] = []
    for name in sorted(tensors):
        parts += [name, tensors[name]]
    return digest(*parts)


def clips_digest(examples: Sequence[Example]) -> str:
    """Of clips as they were read: samples, tasks and texts, in their order."""
    parts: list[str | Tensor] = []
    for example in examples:
        words = (example.id, example.task, example.text, example.question, example.source)
        parts += [json.dumps([*words, *example.references]), example.waveform]
    return digest(*parts)


def machine_digest(device: str | torch.device) -> str:
    """Of what decides which kernels run: versions, processor or card, threads, processes of the launch."""
    found: dict[str, Any] = {
        name: value for name, value in describe_environment(device, 0).items() if name not in _FREE
    }
    found |= {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processes": processes().num_processes,
    }
    return digest(json.dumps(found, sort_keys=True))


@cache
def package_digest() -> str:
    """Of the version and of every source file of this package, so that an edit counts."""
    files = sorted(_PACKAGE.rglob("*.py"))
    parts = [part for file in files for part in (str(file.relative_to(_PACKAGE)), file.read_text("utf-8"))]
    return digest(audiolm_compress.__version__, *parts)
