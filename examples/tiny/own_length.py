"""Caches states of clips at their own length: what a model with ``bucket_seconds`` hears.

    python examples/tiny/own_length.py --clips DIR --out CACHE

Like `features.py`, but every clip is padded to the next whole second only, for both encoders, which are taken
from the finished parts of the model itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from features import write_states
from rich.progress import track
from shards import read_shard, shard_names

from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

BUCKET_SECONDS = 1.0
FRAMES_IN_BATCH = 6000


@torch.inference_mode()
def cache_shard(model: Salmonn, clips_dir: Path, out: Path, name: str) -> None:
    """Encode all clips of one shard with both encoders."""
    clips, samples = read_shard(clips_dir, name)
    speech: list[np.ndarray] = [np.empty(0)] * len(clips)
    audio: list[np.ndarray] = [np.empty(0)] * len(clips)
    waves = [
        torch.from_numpy(samples[clip.offset :][: clip.samples].astype(np.float32) / 32768) for clip in clips
    ]
    for bucket in model.buckets(waves):
        size = max(1, FRAMES_IN_BATCH // model.frames([len(waves[bucket[0]])]))
        for begin in range(0, len(bucket), size):
            batch = bucket[begin : begin + size]
            heard = [waves[index] for index in batch]
            sounds = model.encode_sound(heard)
            assert sounds is not None
            for index, one, other in zip(batch, model.encode_speech(heard), sounds, strict=True):
                speech[index] = one.to(torch.float16).numpy()
                audio[index] = other.to(torch.float16).numpy()
    write_states(out, name, "whisper", speech)
    write_states(out, name, "beats", audio)


def main() -> None:
    """Cache every shard that is not cached yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="tiny", help="model whose encoders are used")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    model = load_model(args.model)
    model.bucket_seconds = BUCKET_SECONDS
    model.cast(torch.bfloat16, ("speech_encoder", "audio_encoder"))
    for name in track(shard_names(args.clips), description="states"):
        if not (args.out / f"{name}.beats.json").exists():
            cache_shard(model, args.clips, args.out, name)


if __name__ == "__main__":
    main()
