"""What the test clips were, to the byte: a figure can be repeated on these files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.data.example import Example

_CHUNK = 1 << 20


def data_hashes(annotations: Sequence[str | Path], examples: Sequence[Example]) -> dict[str, object]:
    """In JSON form: SHA-256 of each annotation file, and one over the audio files that are used.

    The latter is the digest of the sorted hexadecimal digests of all files, one a line, whatever the files'
    names are and wherever they lie: ``sha256sum FILES | cut -d' ' -f1 | sort -u | sha256sum``.
    """
    files = {example.path for example in examples if example.path is not None}
    digests = sorted({_sha256(file) for file in files})
    return {
        "annotations": [{"file": Path(file).name, "sha256": _sha256(Path(file))} for file in annotations],
        "audio_files": len(files),
        "audio_sha256": hashlib.sha256("".join(f"{one}\n" for one in digests).encode()).hexdigest(),
    }


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
