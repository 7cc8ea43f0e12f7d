"""Whether a model behaves the same before it is saved and after it is loaded, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import batches
from audiolm_compress.errors import AudioLMError
from audiolm_compress.salmonn.model import Salmonn

_CLIPS = 2  # of each task


@dataclass(frozen=True)
class Behaviour:
    """What a model gives for a few clips of each task.

    Attributes:
        tasks: of the batches, in order.
        logits: teacher-forced, [batch, length, vocabulary] for each batch.
        ids: generated token ids [batch, new tokens] for each batch, under the task's decode settings; empty
            if nothing was to be generated.
    """

    tasks: tuple[str, ...]
    logits: tuple[Tensor, ...]
    ids: tuple[Tensor, ...]

    @classmethod
    @torch.inference_mode()
    def of(cls, model: Salmonn, examples: Sequence[Example], *, generate: bool = True) -> Behaviour:
        """Of the first clips of each task in ``examples``; without ``generate`` their logits alone."""
        probes = list({batch[0].task: batch for batch in reversed(list(batches(examples, _CLIPS)))}.values())
        tasks = tuple(batch[0].task for batch in probes)
        logits = tuple(model.logits(batch).cpu() for batch in probes)
        if not generate:
            return cls(tasks, logits, ())
        torch.manual_seed(0)  # decode settings may sample
        ids = tuple(
            model.generate_ids(model.prepare_examples(batch), model.decode_settings(task)).cpu()
            for batch, task in zip(probes, tasks, strict=True)
        )
        return cls(tasks, logits, ids)

    def check(self, reloaded: Behaviour) -> None:
        """Compare with the same of the reloaded model.

        Raises:
            AudioLMError: they differ; says by how much.
        """
        for task, before, after in zip(self.tasks, self.logits, reloaded.logits, strict=True):
            if not torch.equal(before, after):
                apart = (before.float() - after.float()).abs().max().item()
                raise AudioLMError(
                    f"the reloaded model is not the one that was saved: on {task} clips the logits are up to "
                    f"{apart:.3g} apart; nothing was written"
                )
        ids = zip(self.ids, reloaded.ids, strict=True)
        for task, (before, after) in zip(self.tasks, ids, strict=False):  # none if none were generated
            if not torch.equal(before, after):
                raise AudioLMError(
                    f"the reloaded model is not the one that was saved: on {task} clips it generates other "
                    f"tokens; nothing was written"
                )
