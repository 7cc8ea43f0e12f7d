"""Valid files, damaged at random: whatever comes of it is read or refused with an error of ours.

    python -m tests.security.fuzz --inputs 100000 --out benchmarks/results/fuzz.json

Hypothesis draws the damages: bytes are changed, cut, doubled; entries of the content are removed, doubled or
replaced by values that no writer gives. The tests run some of each, always the same; this program runs as
many as asked for, others with every ``--seed``, and writes down how many were read and how many refused.
What ``--out`` holds of the same seed is gone on with, so that a campaign can be cut off, or into pieces with
``--seconds``.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import soundfile
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from audiolm_compress.data.audio import try_audio
from audiolm_compress.data.loading import load_examples
from audiolm_compress.errors import AudioLMError
from audiolm_compress.recipe import load_recipe
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.upstream import load_upstream

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "fixtures" / "upstream_parity" / "llama"
_BATCH = 500  # inputs of one hypothesis run: its memory of what it tried grows with them
_MEMORY = 6 * 2**30
_COMES = ("read", "refused", "other")  # other: what should not be
_SHARES = {"annotation": 0.4, "audio": 0.4, "recipe": 0.18, "config": 0.02}  # by what an input costs

_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**30, 0.5, -1e300, 1e-300, 5e-324]),
    st.text(max_size=8),
    st.sampled_from(
        ["", "..", "/", "tiny", "\0", "\ud800", "😀", "a" * 5000, "../../etc/passwd", "CON", "noise"]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def other_content(draw: st.DrawFn, valid: Any) -> Any:
    """``valid`` with one to three of its nodes removed, doubled, renamed or replaced."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        node, key = content, None
        while isinstance(node, dict | list) and node:
            keys = sorted(node) if isinstance(node, dict) else range(len(node))
            parent, key = node, draw(st.sampled_from(keys))
            node = parent[key]
            if draw(st.integers(0, 2)) == 0:
                break
        if key is None:
            return draw(_ODD)
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double", "add"]))
        if action == "replace":
            parent[key] = draw(_ODD)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(node) if action == "double" else draw(_ODD))
        else:
            parent[draw(st.text(max_size=8))] = copy.deepcopy(node) if action == "double" else draw(_ODD)
    return content


@st.composite
def other_bytes(draw: st.DrawFn, valid: bytes, reach: int | None = None) -> bytes:
    """``valid`` with one to six places changed, most of them within its first ``reach`` bytes."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(reach or len(data), len(data))))
        action = draw(st.sampled_from(["set", "set", "number", "insert", "remove", "cut", "double"]))
        size = draw(st.integers(1, 8))
        if action == "set":
            data[place : place + size] = draw(st.binary(min_size=size, max_size=size))
        elif action == "number":
            value = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62]))
            width = draw(st.sampled_from([2, 4, 8]))
            data[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif action == "insert":
            data[place:place] = draw(st.binary(max_size=16))
        elif action == "remove":
            del data[place : place + size]
        elif action == "cut":
            del data[place:]
        else:
            data[place:place] = data[place : place + 8 * size]
    return bytes(data)


@dataclass(frozen=True)
class Target:
    """An entry point: valid inputs, damaged ones, and what reads them in a folder.

    An input is the content of a file, or the file and its content.
    """

    clean: Sequence[Any]
    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], object]


@dataclass
class Counts:
    """Inputs by what came of them."""

    of: Counter[str] = field(default_factory=Counter)

    def survive(self, target: Target, folder: Path, given_input: Any) -> None:
        """Read one input: anything but an error of ours goes on to the caller."""
        try:
            target.read(folder, given_input)
        except AudioLMError:
            self.of["refused"] += 1
        else:
            self.of["read"] += 1


def targets(folder: Path) -> dict[str, Target]:
    """The entry points by name; ``folder`` gets the clean files that they need."""
    return {
        "annotation": _annotation(folder),
        "audio": _audio(folder),
        "recipe": _recipe(),
        "config": _config(folder),
    }


def _json_bytes(content: Any) -> bytes:
    return json.dumps(content).encode()


def _annotation(folder: Path) -> Target:
    valid = json.loads((PARITY / "ann.json").read_text(encoding="utf-8"))
    valid["annotation"] = valid["annotation"][:3]
    valid["annotation"][0] |= {"testset_id": 7, "Q": "Who?", "texts": ["a", "b"], "source": "x", "gain": 0.5}

    for entry in valid["annotation"]:
        soundfile.write(folder / entry["path"], np.sin(np.arange(1200) / 5) / 2, 16_000)

    def read(folder: Path, data: bytes) -> None:
        (folder / "ann.json").write_bytes(data)
        load_examples(folder / "ann.json", on_bad_audio="skip", require_texts=bool(len(data) % 2))

    clean = _json_bytes(valid)
    return Target([clean], st.one_of(other_content(valid).map(_json_bytes), other_bytes(clean)), read)


def _audio(folder: Path) -> Target:
    samples = np.sin(np.arange(1200) / 5) / 2
    clean: list[tuple[str, bytes]] = []
    for suffix, subtype in (
        ("wav", "PCM_16"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
        ("w64", "PCM_16"),
        ("aiff", "PCM_16"),
        ("au", "ULAW"),
    ):
        file = folder / f"clean.{suffix}"
        soundfile.write(file, samples, 16_000, subtype=subtype)
        clean.append((file.name.replace("clean", "clip"), file.read_bytes()))

    def read(folder: Path, named: tuple[str, bytes]) -> None:
        (folder / named[0]).write_bytes(named[1])
        reason, _ = try_audio(folder / named[0], "mean")
        if reason:
            raise AudioLMError(reason)

    inputs = st.sampled_from(clean).flatmap(
        lambda named: st.tuples(st.just(named[0]), other_bytes(named[1], reach=128))
    )
    return Target(clean, inputs, read)


def _recipe() -> Target:
    texts = [file.read_bytes() for file in sorted((ROOT / "recipes").glob("*.yaml"))]
    contents = [yaml.safe_load(text) for text in texts]

    def read(folder: Path, data: bytes) -> None:
        (folder / "recipe.yaml").write_bytes(data)
        load_recipe(folder / "recipe.yaml")

    structured = st.sampled_from(contents).flatmap(other_content).map(_json_bytes)
    return Target(texts, st.one_of(structured, st.sampled_from(texts).flatmap(other_bytes)), read)


def _config(folder: Path) -> Target:
    """One file of a folder of ours or of an upstream layout, the others as they were."""
    shutil.copytree(PARITY, folder / "upstream")
    store.save(load_upstream(PARITY / "config.yaml"), folder / "model")
    changed = [
        *(folder / "model" / name for name in ("config.json", "tokenizer_config.json", "tokenizer.json")),
        *(folder / "upstream" / name for name in ("llm/config.json", "whisper/config.json")),
        folder / "upstream" / "prompts" / "test_prompt.json",
    ]
    structured = st.sampled_from(changed).flatmap(
        lambda file: st.tuples(st.just(file), other_content(json.loads(file.read_bytes())).map(_json_bytes))
    )
    layout = folder / "upstream" / "config.yaml"
    upstream = other_content(yaml.safe_load(layout.read_text()))
    weights = folder / "model" / "model.safetensors"
    inputs = st.one_of(
        structured,
        st.tuples(st.just(layout), upstream.map(_json_bytes)),
        st.tuples(st.just(weights), other_bytes(weights.read_bytes(), reach=4000)),
    )

    def read(folder: Path, file_and_data: tuple[Path, bytes]) -> None:
        file, data = file_and_data
        clean = file.read_bytes()
        file.write_bytes(data)
        inner = folder / "model"
        try:
            load_model(inner if file.is_relative_to(inner) else layout)
        finally:
            file.write_bytes(clean)

    return Target([(file, file.read_bytes()) for file in (*changed, layout, weights)], inputs, read)


def fuzz(target: Target, folder: Path, counts: Counts, inputs: int, seed: int) -> None:
    """Give a target damaged inputs until it has had ``inputs``."""
    while (done := counts.of.total()) < inputs:

        @hypothesis.seed(seed + done)
        @settings(
            max_examples=min(_BATCH, inputs - done),
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(target.inputs)
        def survives(given_input: Any) -> None:
            counts.survive(target, folder, given_input)

        survives()


def _run(target: Target, folder: Path, counts: Counts, inputs: int, seed: int) -> None:
    """One batch at most; what a campaign looks for is shown, counted, and no reason to stop it."""
    try:
        fuzz(target, folder, counts, min(inputs, counts.of.total() + _BATCH), seed)
    except Exception:
        traceback.print_exc()
        counts.of["other"] += 1


def _begun(out: Path, seed: int) -> dict[str, Any]:
    """What the file of results holds of a campaign with this seed and this hypothesis."""
    if not out.exists():
        return {}
    result = json.loads(out.read_text(encoding="utf-8"))
    same = (result["seed"], result["hypothesis"]) == (seed, hypothesis.__version__)
    return dict(result["targets"]) if same else {}


def campaign(out: Path, inputs: int, seed: int, seconds: float = float("inf")) -> None:
    """Give all targets ``inputs``, less those that ``out`` counts; write the counts after each batch."""
    found = _begun(out, seed)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place:
        for name, target in targets(Path(place)).items():
            entry = found.setdefault(name, dict.fromkeys((*_COMES, "seconds"), 0))
            counts = Counts(Counter({come: entry[come] for come in _COMES}))
            share = round(inputs * _SHARES[name])
            while counts.of.total() < share and time.monotonic() < end:
                started = time.monotonic()
                _run(target, Path(place), counts, share, seed)
                in_all = round(entry["seconds"] + time.monotonic() - started, 1)
                entry |= {come: counts.of[come] for come in _COMES} | {"seconds": in_all}
                _write(out, found, seed)
            print(name, entry, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a campaign, in bounded memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no batch is begun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # warnings about odd values are no crash
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    campaign(asked.out, asked.inputs, asked.seed, asked.seconds)


def _write(out: Path, found: dict[str, Any], seed: int) -> None:
    result = {
        "inputs": sum(each[come] for each in found.values() for come in _COMES),
        "seed": seed,
        "targets": found,
        "python": platform.python_version(),
        "hypothesis": hypothesis.__version__,
    }
    part = out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(out)


if __name__ == "__main__":
    main()
