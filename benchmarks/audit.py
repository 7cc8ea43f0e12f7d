"""`data audit` and `data sample` on an index of 1.6 million entries: peak memory and time.

    python benchmarks/audit.py                              # a quarter of an hour, 2 GB of disk
    python benchmarks/audit.py --entries 40000 --out /tmp/audit.json

Writes indexes of a quarter of the entries and of all of them, with some of each fault, into a temporary
folder. One entry in twenty has an audio file, a link to one of 64 short ones; for the others the audit finds
that there is none. Every command runs in a process of its own, whose peak resident set the kernel counts; it
must stay under a gibibyte, grow by no more than 32 bytes an entry, and find exactly the faults that were put
there. Writes results/audit.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from result_file import write_result

RESULTS = Path(__file__).parent / "results" / "audit.json"
LIMIT_BYTES = 2**30
BYTES_AN_ENTRY = 32
STEADY = 400_000  # entries from which on buffers are full, so that growth shows what each entry keeps
CORPORA = (
    ("LibriSpeech", "asr"),
    ("GigaSpeech", "asr"),
    ("WavCaps", "audiocaption"),
    ("AudioCaps", "audiocaption"),
    ("Clotho", "audiocaption"),
    ("MusicNet", "QA"),
)
CLIPS, AUDIO_SHARE = 64, 20
DRAWN = 256
REPEATED, LEAKED, UNUSABLE = 1000, 1009, 10_007  # one entry in so many; without common divisors
WORDS = ("the", "a", "rain", "falls", "on", "roofs", "while", "dogs", "bark", "and", "music", "in", "rooms")


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory and time of data commands at scale.")
    parser.add_argument("--entries", type=int, default=1_600_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    measured = [measure(asked.entries // 4), measure(asked.entries)]
    for name in ("audit", "sample"):
        small, large = (one["commands"][name]["peak_bytes"] for one in measured)
        growth = (large - small) / (measured[1]["entries"] - measured[0]["entries"])
        assert large < LIMIT_BYTES, f"{name}: {large} bytes"
        if measured[0]["entries"] >= STEADY:
            assert growth < BYTES_AN_ENTRY, f"{name}: {growth:.1f} bytes an entry"
    from audiolm_compress.measurement.environment import describe_environment  # torch would count as memory

    # Well above the number of cores, it says that times were taken beside other work.
    load = round(os.getloadavg()[2], 1)
    content = {"schema": 1, "limit_bytes": LIMIT_BYTES, "load_average": load, "indexes": measured}
    write_result(asked.out, {**content, "environment": describe_environment("cpu", 0)})


def measure(entries: int) -> dict[str, Any]:
    """One index of so many entries through all commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links = make_audio(folder, entries)
        expected = make_indexes(folder, entries)
        index, test = folder / "train.json", folder / "test.json"
        few = ["--clips", str(DRAWN), "--out", folder / "few.json", "--on-bad", "skip"]
        commands = {
            "audit": ["audit", index, test, "--html", folder / "audit.html", "--json", folder / "audit.json"],
            "sample": ["sample", index, *few],
        }
        made = {key: run([*map(str, command), "--quiet"]) for key, command in commands.items()}
        audited = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
        found = audited["annotations"][0]["findings"]
        for kind, count in expected.items():
            assert found.get(kind, 0) == count, f"{kind}: put {count}, found {found.get(kind, 0)}"
        drawn = json.loads((folder / "few.json").read_text(encoding="utf-8"))["annotation"]
        assert len(drawn) == DRAWN and all((folder / item["path"]).is_file() for item in drawn)
        return {
            "entries": entries,
            "index_bytes": index.stat().st_size,
            "audio_files": links,
            "findings": found,
            "commands": made,
        }


def run(arguments: list[str]) -> dict[str, float]:
    """Seconds and peak resident set of one command."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "audiolm_compress", "data", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{arguments} ended with {process.returncode}"
    found = {"seconds": round(time.perf_counter() - started, 1), "peak_bytes": usage.ru_maxrss * 1024}
    print(arguments[0], found, flush=True)
    return found


def path_of(index: int) -> str:
    corpus = CORPORA[index % len(CORPORA)][0]
    return f"{corpus}/{index // 2000:04d}/{index}.wav"


def make_audio(folder: Path, entries: int) -> int:
    """A file of noise for every twentieth entry; returns how many."""
    rng = np.random.default_rng(0)
    for clip in range(CLIPS):
        samples = rng.uniform(-0.5, 0.5, 800 + 400 * clip)  # 0.1 s to 3.25 s
        soundfile.write(folder / f"{clip}.wav", samples, 8_000, subtype="PCM_U8")
    count = 0
    for index in range(0, entries, AUDIO_SHARE):
        path = folder / path_of(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / f"{count % CLIPS}.wav", path)
        count += 1
    return count


def make_indexes(folder: Path, entries: int) -> dict[str, int]:
    """A training and a test index; returns how many of some findings the first must give."""
    written = {"same entry again": 0, "unusable entry": 0, "path in another annotation": 0}

    def items() -> Iterator[dict[str, Any]]:
        for index in range(entries):
            item = entry(index)
            if index % UNUSABLE == UNUSABLE - 1:
                written["unusable entry"] += 1
                del item["path"]
            elif index % REPEATED == REPEATED - 1:
                written["same entry again"] += 1
                item = entry(index - 1)
            yield item

    write(folder / "train.json", items())
    leaked = range(0, entries, LEAKED)
    # An entry that is unusable leaks nothing; one that repeats another does so beside it.
    for index in leaked:
        usable = index % UNUSABLE != UNUSABLE - 1 and index % REPEATED != REPEATED - 1
        again = index + 1 < entries and (index + 1) % REPEATED == REPEATED - 1
        again = again and (index + 1) % UNUSABLE != UNUSABLE - 1
        written["path in another annotation"] += usable + (again and usable)
    own = (entry(entries + place) for place in range(entries // 100))
    write(folder / "test.json", (one for part in (map(entry, leaked), own) for one in part))
    return written


def entry(index: int) -> dict[str, Any]:
    corpus, task = CORPORA[index % len(CORPORA)]
    words = [WORDS[(index * step + step) % len(WORDS)] for step in range(1, 4 + index % 17)]
    item = {"path": path_of(index), "text": " ".join(words), "task": task, "duration": index % 400 / 10}
    return item | ({"Q": "Which instrument plays?"} if task == "QA" else {"source": corpus})


def write(file: Path, items: Iterator[dict[str, Any]]) -> None:
    """One entry after the other, so that this process stays small."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write('{"annotation": [')
        for place, item in enumerate(items):
            stream.write(("," if place else "") + "\n" + json.dumps(item))
        stream.write("\n]}\n")


if __name__ == "__main__":
    main()
