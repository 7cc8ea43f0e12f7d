"""Where and with what a measurement was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import audiolm_compress

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "accelerate",
    "torchao",
    "safetensors",
    "numpy",
    "soundfile",
    "soxr",
    "jiwer",
    "aac-metrics",
    "whisper-normalizer",
)

# Instructions by which PyTorch and oneDNN choose between kernels, as Linux calls them (x86, then Arm).
_FLAGS = re.compile(r"avx2|fma|f16c|avx_vnni\w*|avx512\w*|amx_\w+|asimd\w*|i8mm|bf16|sve\w*|sme\w*")


def describe_environment(device: str | torch.device, seed: int) -> dict[str, Any]:
    """Versions, device, processor, memory, threads, commit and seed, in JSON form."""
    device = torch.device(device)
    return {
        "audiolm_compress": audiolm_compress.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "processor": _processor(),
        "processor_flags": _processor_flags(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "seed": seed,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _processor_flags() -> list[str]:
    """Empty if the system does not say."""
    found = _cpuinfo("flags") or _cpuinfo("Features") or ""
    return sorted(flag for flag in set(found.split()) if _FLAGS.fullmatch(flag))


def _cpuinfo(name: str) -> str | None:
    """Of the first core."""
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        found, _, value = line.partition(":")
        if found.strip() == name:
            return value.strip()
    return None


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``+changes`` if it was edited; else None."""
    root = Path(audiolm_compress.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
