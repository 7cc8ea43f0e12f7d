"""The machine: PyTorch, processor, cards, memory, disks, and what it lets a process read of itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from audiolm_compress.doctor.finding import Finding
from audiolm_compress.doctor.kernels import processor_flags
from audiolm_compress.measurement.energy import EnergyMeter

if TYPE_CHECKING:
    from audiolm_compress.planner import Plan

_GIB = 2**30
_LEAST_DISK = 1.0  # GiB, for tiny, its features and its packages' caches


def processor() -> Iterator[Finding]:
    """PyTorch and what it can do on this processor."""
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding(
        "torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} threads"
    )
    flags = [
        flag for flag in processor_flags() if any(name in flag for name in ("vnni", "amx", "bf16", "i8mm"))
    ]
    yield Finding(
        "processor", "ok", f"{capability}; {', '.join(flags) or 'no VNNI, AMX or BF16 instructions'}"
    )


def cards() -> Iterator[Finding]:
    """CUDA cards and Apple's, with memory and compute capability."""
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        memory = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield Finding(f"cuda:{index}", "ok", f"{card.name}, capability {card.major}.{card.minor}, {memory}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "an Apple card; used with --device mps, quantised layers without kernels")
    elif not torch.cuda.is_available():
        built = f"torch {torch.__version__} is built {'for CUDA' if torch.version.cuda else 'without CUDA'}"
        yield Finding(
            "card",
            "missing",
            f"no CUDA card is seen ({built})",
            "models run and learn on the processor",
            "a card, its driver, and a build of PyTorch for it (pytorch.org)",
        )


def memory(plan: Plan | None) -> Finding:
    """What is free, and what a run of a recipe needs."""
    state = psutil.virtual_memory()
    found = f"{state.available / _GIB:.1f} of {state.total / _GIB:.1f} GiB available"
    if plan is None:
        return Finding("memory", "ok", found)
    need = max(stage.bytes + stage.activation_bytes for stage in plan.stages)
    found += f"; {plan.recipe} needs at least {need / _GIB:.1f} GiB for its model at a time (estimate)"
    if need <= state.available:
        return Finding("memory", "ok", found)
    cost = "the run is killed when memory runs out"
    return Finding(
        "memory", "problem", found, cost, "a machine with more, or a smaller baseline", essential=True
    )


def disks(plan: Plan | None) -> Iterator[Finding]:
    """Space where a run writes."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"here": Path.cwd(), "model cache": Path(HF_HUB_CACHE), "temporary": Path(tempfile.gettempdir())}
    for name, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(there).free / _GIB
        found, need = f"{free:.1f} GiB free in {_near(place)}", _LEAST_DISK
        if plan is not None and name == "here":
            need = plan.disk_bytes / _GIB
            found += f"; {plan.recipe} writes {need:.1f} GiB"
        if free >= need:
            yield Finding(f"disk, {name}", "ok", found)
        else:
            cost, remedy = "a run may end when the disk is full", "free some, or work in another folder"
            yield Finding(f"disk, {name}", "problem", found, cost, remedy, essential=name == "here")


def counters(device: torch.device) -> Iterator[Finding]:
    """What the system counts of energy, memory and other programs."""
    note = EnergyMeter(device).note
    if note.startswith("no energy"):
        yield Finding("energy", "missing", note, "reports have no joules", "see the reason")
    else:
        yield Finding("energy", "ok", note.removeprefix("energy: "))
    if device.type == "cpu":
        if os.access("/proc/self/clear_refs", os.W_OK):
            yield Finding("peak memory", "ok", "the peak can be reset after loading (/proc/self/clear_refs)")
        else:
            cost = "peak memory of inference alone is not known; that with loading is"
            yield Finding("peak memory", "missing", "/proc/self/clear_refs cannot be written", cost, "Linux")
    if os.access("/proc/stat", os.R_OK):
        yield Finding("other programs", "ok", "seen while models are timed (/proc/stat)")
    else:
        cost = "a report does not say if the machine was busy while models were timed"
        yield Finding("other programs", "missing", "/proc/stat cannot be read", cost, "Linux")


def _near(place: Path) -> str:
    home = Path.home()
    return f"~/{place.relative_to(home)}" if place.is_relative_to(home) and place != home else str(place)
