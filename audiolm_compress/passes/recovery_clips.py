"""Which clips a recovery learns from, which it is judged by, and in what batches they come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from audiolm_compress.data.augment import with_variants
from audiolm_compress.data.example import Example
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.recovery_settings import Recovery
from audiolm_compress.salmonn.model import Salmonn


def split_clips(context: Context, settings: Recovery) -> tuple[list[Example], int]:
    """The clips that are held out, behind them the others and their variants; and how many are held out.

    Raises:
        PassError: fewer than two clips.
    """
    examples = list(context.training_clips)
    order = torch.randperm(len(examples), generator=context.rng).tolist()[: settings.clips]
    settings.require_clips(len(order))
    count = min(max(1, round(settings.valid_share * len(order))), len(order) - 1)
    held_out = [examples[index] for index in order[:count]]
    learned = [examples[index] for index in order[count:]]
    varied = with_variants(learned, settings.augment, context.rng)
    return [*held_out, *varied], count


class Batches:
    """The batches of an epoch, clips by their numbers: of one length together, shuffled anew for every epoch.

    Attributes:
        seed: of the order.
        validation: the batches of the clips that are held out, always the same.
    """

    def __init__(
        self, model: Salmonn, examples: Sequence[Example], held_out: int, batch_size: int, seed: int
    ) -> None:
        """The first ``held_out`` of ``examples`` are for validation, the others are learned from."""
        self.seed, self._size = seed, batch_size
        self._groups = _same_length(model, examples, range(held_out, len(examples)))
        self.validation = [
            group[start : start + batch_size]
            for group in _same_length(model, examples, range(held_out))
            for start in range(0, len(group), batch_size)
        ]

    def __call__(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch; the same number gives the same batches."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        batches = []
        for group in self._groups:
            order = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            batches += [order[start : start + self._size] for start in range(0, len(order), self._size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _same_length(model: Salmonn, examples: Sequence[Example], indices: Sequence[int]) -> list[list[int]]:
    """Clips by their numbers, sorted into groups that the model pads to one length."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        groups[model.frames([len(examples[index].waveform)])].append(index)
    return list(groups.values())
