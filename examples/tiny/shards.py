"""Shards of clips on disk.

`NAME.i16` holds int16 samples at 16 kHz, one clip after the other, `NAME.jsonl` a line for each.

    python examples/tiny/shards.py --annotation asr_train.json --out DIR [--name asr_train]

writes an annotation in the SALMONN format (paths relative to its folder) as one shard.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SECONDS = 30  # longest clip


@dataclass(frozen=True)
class Clip:
    """One clip of a shard: where its samples lie, what is said or heard, and where it comes from."""

    offset: int
    samples: int
    text: str
    source: str
    seed: int = 0
    task: str = "asr"
    texts: tuple[str, ...] = ()


def shard_names(folder: Path, match: str = "*") -> list[str]:
    """Names of the complete shards of a folder, sorted."""
    return sorted(path.stem for path in folder.glob(f"{match}.jsonl"))


def read_clips(folder: Path, name: str) -> list[Clip]:
    """The lines of a shard."""
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Clip(**{**row, "texts": tuple(row.get("texts", ()))}) for row in map(json.loads, lines)]


def read_shard(folder: Path, name: str) -> tuple[list[Clip], np.ndarray]:
    """The lines of a shard and its samples (int16, memory-mapped)."""
    return read_clips(folder, name), np.memmap(folder / f"{name}.i16", np.int16, mode="r")


class ShardWriter:
    """Collects clips and writes them; the .jsonl comes last, so that it marks a complete shard."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.clips: list[Clip] = []
        self.waves: list[np.ndarray] = []
        self.length = 0

    def add(self, wave: np.ndarray, text: str, source: str, **fields: object) -> None:
        """Append a float32 waveform in [-1, 1] with its text; ``fields`` are further ones of `Clip`."""
        samples = np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
        row = {"offset": self.length, "samples": len(samples), "text": text, "source": source, **fields}
        self.clips.append(Clip(**row))  # type: ignore[arg-type]  # fields are checked by Clip
        self.waves.append(samples)
        self.length += len(samples)

    def close(self) -> None:
        """Write both files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.concatenate(self.waves).tofile(self.folder / f"{self.name}.i16")
        lines = [json.dumps(asdict(clip), ensure_ascii=False) for clip in self.clips]
        (self.folder / f"{self.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_annotation(annotation: Path, out: Path, name: str, root: Path | None = None) -> int:
    """Write the clips of an annotation as a shard; returns their number."""
    entries = json.loads(annotation.read_text(encoding="utf-8"))["annotation"]
    writer = ShardWriter(out, name)
    for entry in entries:
        wave, rate = soundfile.read((root or annotation.parent) / entry["path"], dtype="float32")
        if rate != RATE or wave.ndim != 1:
            raise SystemExit(f"{entry['path']}: expected {RATE} Hz mono, found {rate} Hz, {wave.ndim} axes")
        texts = tuple(entry.get("texts", ()))
        wave = wave[: SECONDS * RATE]
        writer.add(wave, entry["text"], entry["path"], task=entry["task"], texts=texts)
    writer.close()
    return len(entries)


def main() -> None:
    """Write one annotation as a shard."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--annotation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="name of the shard; the annotation's file name without one")
    parser.add_argument(
        "--root", type=Path, help="folder that paths are relative to; the annotation's without one"
    )
    args = parser.parse_args()
    name = args.name or args.annotation.stem
    print(f"{name}: {write_annotation(args.annotation, args.out, name, args.root)} clips")


if __name__ == "__main__":
    main()
