"""Looks at a machine: can it run the main job, and what does each missing piece cost?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiolm_compress.doctor.finding import Finding
from audiolm_compress.doctor.kernels import kernels
from audiolm_compress.doctor.machine import cards, counters, disks, memory, processor
from audiolm_compress.doctor.packages import extras, required
from audiolm_compress.doctor.scores import scores

if TYPE_CHECKING:
    from audiolm_compress.planner import Plan

__all__ = ["Finding", "examine"]


def examine(device: torch.device, plan: Plan | None = None) -> dict[str, list[Finding]]:
    """Everything that was looked at, by what it is.

    Args:
        device: where models will run.
        plan: of a recipe whose needs are held against memory and disk.
    """
    return {
        "installation": [required(), *extras()],
        "devices": [*processor(), *cards()],
        "kernels": list(kernels(device)),
        "scores": list(scores()),
        "space": [memory(plan), *disks(plan)],
        "measuring": list(counters(device)),
    }
