"""ONNX Runtime against torch on `tiny`'s encoders and connector: the same numbers, and how long they take.

    python benchmarks/onnx_parity.py                # a minute or two on two quiet cores, nothing else running
    python benchmarks/onnx_parity.py FOLDER         # of an export made before
    python benchmarks/onnx_parity.py --no-times     # parity alone; prints, and writes only with --out

Parity is the largest absolute difference of each part's output over test clips of all lengths, from the
clip's samples on: what the encoders' files give is what the connector's file is given. It is taken with all
clips at 30 s, as `tiny` hears them, and at their own length (buckets of 5 s), with the same files.

Times are of whole stages, features included, torch in eager mode as the model runs without ONNX. Both are in
one process with the same number of threads, which ONNX Runtime is told not to keep spinning. They take
turns: in a round every clip is heard by torch, by ONNX Runtime and by torch again, in the next round in
the opposite order. A ratio is the median over the rounds of ONNX Runtime's time to the mean of the two of
torch; noise is the median difference between those two. Writes results/onnx_tiny.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from result_file import write_result
from torch import Tensor

from audiolm_compress.data.loading import load_examples
from audiolm_compress.export import export
from audiolm_compress.export.onnx import PACKAGES, difference, padded_sounds, padded_speech
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.salmonn.load import TINY, load_model
from audiolm_compress.salmonn.model import Salmonn

RESULT = Path(__file__).parent / "results" / "onnx_tiny.json"
MODES = {"30 s": None, "own length": 5.0}
STAGES = ("speech_encoder", "audio_encoder", "connector")
CLIPS, TIMED_CLIPS, ROUNDS = 24, 6, 5
Hear = Callable[[Tensor], dict[str, Tensor]]


class Files:
    """The files of an export as ONNX Runtime has opened them."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        said = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / part["file"], options)
            for name, part in said["parts"].items()
        }

    def run(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """The output of a part."""
        found = self.sessions[name].run(None, {key: one.numpy() for key, one in inputs.items()})
        return torch.from_numpy(found[0])


def by_files(files: Files, model: Salmonn, clip: Tensor, clock: dict[str, float]) -> dict[str, Tensor]:
    """What each file gives for a clip, and how long it took."""
    found: dict[str, Tensor] = {}
    for name in STAGES:
        begin = time.perf_counter()
        if name == "connector":
            states = {f"{part}_states": found[f"{part}_encoder"] for part in ("speech", "audio")}
            found[name] = files.run(name, states)
        else:
            pad = padded_speech if name == "speech_encoder" else padded_sounds
            found[name] = files.run(name, pad(model, [clip]))
        clock[name] += time.perf_counter() - begin
    return found


def by_torch(model: Salmonn, clip: Tensor, clock: dict[str, float]) -> dict[str, Tensor]:
    """The same by the model itself."""
    found: dict[str, Tensor] = {}
    for name in STAGES:
        begin = time.perf_counter()
        if name == "connector":
            found[name] = model.connect(found["speech_encoder"], found["audio_encoder"]).embeddings
        else:
            hear = model.encode_speech if name == "speech_encoder" else model.encode_sound
            states = hear([clip])
            assert states is not None, "tiny has a BEATs"
            found[name] = states
        clock[name] += time.perf_counter() - begin
    return found


def empty_clock() -> dict[str, float]:
    return dict.fromkeys(STAGES, 0.0)


def parity(files: Files, model: Salmonn, clips: list[Tensor]) -> dict[str, float]:
    """Largest difference of each part over the clips."""
    worst = dict.fromkeys(STAGES, 0.0)
    for clip in clips:
        found, expected = by_files(files, model, clip, empty_clock()), by_torch(model, clip, empty_clock())
        for name in STAGES:
            worst[name] = max(worst[name], difference(found[name], expected[name]))
    return worst


def race(files: Files, model: Salmonn, clips: list[Tensor]) -> dict[str, Any]:
    """Times of the parts and of all together, over the clips."""
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (*STAGES, "all")}
    for index in range(-1, ROUNDS):  # one more to warm up
        clocks = [empty_clock() for _ in range(3)]  # torch, ONNX Runtime, torch again
        turns = (0, 1, 2) if index % 2 else (2, 1, 0)
        for clip in clips:
            for turn in turns:
                if turn == 1:
                    by_files(files, model, clip, clocks[turn])
                else:
                    by_torch(model, clip, clocks[turn])
        for name in STAGES if index >= 0 else ():
            rounds[name].append((clocks[0][name], clocks[1][name], clocks[2][name]))
        if index >= 0:
            first, onnx, again = (sum(clock.values()) for clock in clocks)
            rounds["all"].append((first, onnx, again))
    return {name: verdict(times, len(clips)) for name, times in rounds.items()}


def verdict(times: list[tuple[float, float, float]], clips: int) -> dict[str, float]:
    """Ratio, noise and milliseconds a clip of (torch, ONNX Runtime, torch again) in each round."""
    torches = [(first + again) / 2 for first, _, again in times]
    ratios = [onnx / both for (_, onnx, _), both in zip(times, torches, strict=True)]
    noise = [max(first, again) / min(first, again) - 1 for first, _, again in times]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "noise": round(statistics.median(noise), 3),
        "torch_milliseconds": round(1e3 * statistics.median(torches) / clips, 2),
        "onnx_milliseconds": round(1e3 * statistics.median(onnx for _, onnx, _ in times) / clips, 2),
    }


@torch.inference_mode()
def compared(folder: Path, count: int, timed: bool) -> dict[str, Any]:
    """Everything that the result file says, but for the environment."""
    model, files = load_model("tiny"), Files(folder)
    examples = load_examples(TINY / "data" / "test.json").examples
    clips = sorted((example.waveform for example in examples), key=len)
    chosen = clips[:: -(-len(clips) // count)]
    content: dict[str, Any] = {
        "clips": len(chosen),
        "seconds": [round(len(clip) / 16_000, 2) for clip in (chosen[0], chosen[-1])],
        "parity": {},
        "times": {},
    }
    for mode, bucket in MODES.items():
        model.bucket_seconds = bucket
        content["parity"][mode] = parity(files, model, chosen)
        if timed:
            content["times"][mode] = race(files, model, chosen[:: -(-len(chosen) // TIMED_CLIPS)])
    return content


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="export of `tiny`; by default made anew")
    parser.add_argument("--clips", type=int, default=CLIPS, help="at most this many; default %(default)s")
    parser.add_argument("--no-times", action="store_true", help="parity alone")
    parser.add_argument("--out", type=Path, help=f"result file; default results/{RESULT.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or export("tiny", "onnx", Path(made) / "tiny_onnx").path
        content = compared(folder, arguments.clips, not arguments.no_times)
    packages = {name: version(name) for name in PACKAGES}
    environment = describe_environment("cpu", 0) | {"onnx_packages": packages}
    content |= {"rounds": 0 if arguments.no_times else ROUNDS, "environment": environment}
    print(json.dumps({key: content[key] for key in ("clips", "seconds", "parity", "times")}, indent=1))
    if out := arguments.out or (None if arguments.no_times else RESULT):
        write_result(out, content)


if __name__ == "__main__":
    main()
