"""Makes the training speech of the embedded baseline: synthetic voices and variants of real prompts.

    python examples/tiny/speech.py --corpus CORPUS_DIR --out DIR --clips 30000 --seed 7

Needs the programs and voices listed in `voices.py`, and for texts and prompts

    apt install wordnet-base asterisk-core-sounds-en asterisk-core-sounds-en-g722 ffmpeg
    pip install numpy rich soundfile soxr

(`--root DIR` reads the three data packages from a folder they were unpacked into with `dpkg -x`.)

The output is cut into shards of 1,000 clips, each a random mixture of all sources: `shard_0000.i16` holds
the int16 samples at 16 kHz of all its clips one after the other, `shard_0000.jsonl` one line per clip:
offset, samples, text, source, seed. The .jsonl is written last, so that its presence means that the shard
is complete. A second run with the same arguments continues where the first was stopped. Results repeat for
the same arguments and versions.

Six clips of the training split are held out as additional test clips (`asr_heldout.json`); the others are
listed in `asr_train_kept.json`. Both have paths relative to CORPUS_DIR. No text comes near those of
`--exclude` (by default the corpus's asr_valid.json and asr_test.json) or of the held-out clips.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import augment
import numpy as np
import recordings
import texts
import voices
from rich.progress import track

SHARD = 1000
# Share of all clips by source. Allison's voice is the one that the test split has.
SHARES = {
    "flite:slt": 0.29,
    "flite:rms": 0.06,
    "flite:awb": 0.06,
    "flite:kal16": 0.02,
    "festival:slt": 0.04,
    "festival:kal": 0.01,
    "festival:ked": 0.01,
    "espeak": 0.07,
    "piper:joe": 0.28,
    "asterisk": 0.08,
    "asterisk-concat": 0.03,
    "asterisk-words": 0.05,
}
ESPEAK_WOMEN = (
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "Alicia",
    "Andrea",
    "Annie",
    "anika",
    "belinda",
    "linda",
    "steph",
)
ESPEAK_MEN = ("m1", "m3", "m5", "m7", "Andy", "john", "paul", "rob")
ESPEAK_ACCENTS = ("en-us", "en-us", "en-us", "en-gb", "en-gb-scotland", "en-029")
HELD_OUT_CLIPS = 6


@dataclass(frozen=True)
class Clip:
    """One clip to be made: its words, its source, and for real recordings the files to join."""

    text: str
    source: str
    seed: int
    files: tuple[Path, ...] = ()


def hold_out(corpus: Path, out: Path, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Splits asr_train into (kept, held-out) entries and writes both; whole groups, prompts of >= 3 words."""
    entries = json.loads((corpus / "asr_train.json").read_text(encoding="utf-8"))["annotation"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(entry["group"], []).append(entry)
    held: list[dict[str, Any]] = []
    for name in random.Random(seed).sample(sorted(groups), len(groups)):
        long = all(len(entry["text"].split()) >= 3 for entry in groups[name])
        if long and len(held) + len(groups[name]) <= HELD_OUT_CLIPS:
            held += groups.pop(name)
    kept = [entry for entry in entries if entry["group"] in groups]
    for name, part in (("asr_heldout.json", held), ("asr_train_kept.json", kept)):
        (out / name).write_text(
            json.dumps({"annotation": part}, indent=1, ensure_ascii=False), encoding="utf-8"
        )
    return kept, held


def plan(args: argparse.Namespace) -> list[Clip]:
    """All clips in their final, shuffled order."""
    kept, held = hold_out(args.corpus, args.out, args.seed)
    exclude = args.exclude or [args.corpus / "asr_valid.json", args.corpus / "asr_test.json"]
    held_texts = [text for file in exclude for text in texts.read_texts(file)] + [
        entry["text"] for entry in held
    ]
    held_out = texts.HeldOut(held_texts)
    rng = random.Random(args.seed)
    counts = {source: round(share * args.clips) for source, share in SHARES.items()}
    prompts = [(args.corpus / entry["path"], str(entry["text"])) for entry in kept]
    seconds = {args.corpus / entry["path"]: float(entry["duration"]) for entry in kept}
    words = recordings.one_word_prompts(args.root)
    made: list[tuple[str, str, tuple[Path, ...]]] = []
    made += [
        ("asterisk", prompts[i % len(prompts)][1], (prompts[i % len(prompts)][0],))
        for i in range(counts["asterisk"])
    ]
    for source in ("asterisk-concat", "asterisk-words"):
        wanted = len(made) + counts[source]
        while len(made) < wanted:
            parts = (
                recordings.joined_prompts(prompts, seconds, rng)
                if source == "asterisk-concat"
                else recordings.word_sequence(words, prompts, rng)
            )
            text = " ".join(word for _, word in parts)
            if text not in held_out:
                made.append((source, text, tuple(file for file, _ in parts)))
    spoken = [source for source in SHARES if not source.startswith("asterisk") for _ in range(counts[source])]
    rng.shuffle(spoken)
    sentences = texts.generate(
        len(spoken),
        seed=args.seed,
        prompts=[text for _, text in prompts],
        free=texts.free_sentences(args.root / "usr/share/wordnet"),
        held_out=held_out,
    )
    made += [(source, text, ()) for source, text in zip(spoken, sentences, strict=True)]
    rng.shuffle(made)
    return [
        Clip(text, source, args.seed * 1_000_003 + i, files) for i, (source, text, files) in enumerate(made)
    ]


def voice_speed(source: str, rng: np.random.Generator) -> float:
    """Playback speed of a clip. Slow speech played faster brings men's voices nearer to a woman's."""
    if source in ("flite:rms", "flite:awb", "piper:joe"):
        return float(rng.uniform(0.92, 1.35))
    return float(rng.uniform(0.9, 1.12))


def synthesise(clip: Clip, rng: np.random.Generator, piper: voices.Piper, scratch: Path) -> np.ndarray:
    """The clip's words in its voice, 16 kHz; festival's are made in a batch by `festival_waves`."""
    engine, _, voice = clip.source.partition(":")
    speed = voice_speed(clip.source, rng)
    stretch = float(rng.uniform(0.88, 1.12)) * (speed if speed > 1.12 else 1.0)
    if engine == "flite":
        wave, rate = voices.flite(clip.text, voice, stretch=stretch, scratch=scratch)
    elif engine == "espeak":
        wave, rate = voices.espeak(
            clip.text, voice, stretch=stretch, pitch=int(rng.integers(30, 75)), scratch=scratch
        )
    else:
        wave, rate = piper(clip.text, stretch=stretch)
    return augment.at_speed(wave, rate, speed)


def festival_waves(clips: list[Clip], scratch: Path) -> dict[int, np.ndarray]:
    """The waveforms of all festival clips of a shard by seed, 16 kHz."""
    wanted = [clip for clip in clips if clip.source.startswith("festival:")]
    rngs = [np.random.default_rng(clip.seed + 1) for clip in wanted]
    batch = [
        (clip.text, clip.source.partition(":")[2], float(rng.uniform(0.88, 1.12)))
        for clip, rng in zip(wanted, rngs, strict=True)
    ]
    return {
        clip.seed: augment.at_speed(wave, rate, voice_speed(clip.source, rng))
        for clip, rng, (wave, rate) in zip(wanted, rngs, voices.festival(batch, scratch), strict=True)
    }


def with_espeak_voice(clip: Clip) -> Clip:
    """Gives an espeak clip one of the accents and variants, which then stands in its source."""
    if clip.source != "espeak":
        return clip
    rng = random.Random(clip.seed)
    return Clip(
        clip.text, f"espeak:{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_WOMEN + ESPEAK_MEN)}", clip.seed
    )


def make_shard(job: tuple[int, list[Clip]], out: Path) -> int:
    """Writes shard `job[0]`; returns its number of clips. A clip without any sound is left out."""
    index, clips = job
    stem = out / f"shard_{index:04d}"
    scratch = stem.with_suffix(".scratch.wav")
    clips = [with_espeak_voice(clip) for clip in clips]
    piper = voices.Piper(seed=clips[0].seed)
    batch = festival_waves(clips, scratch)
    lines, offset = [], 0
    with stem.with_suffix(".i16").open("wb") as samples:
        for clip in clips:
            rng = np.random.default_rng(clip.seed)
            if clip.files:
                wave = augment.at_speed(
                    recordings.join(list(clip.files), rng), augment.RATE, rng.uniform(0.9, 1.12)
                )
            elif clip.seed in batch:
                wave = batch[clip.seed]
            else:
                wave = synthesise(clip, rng, piper, scratch)
            pcm = augment.finish(wave, rng)
            if not pcm.any():
                continue
            samples.write(pcm.tobytes())
            entry = asdict(clip)
            del entry["files"]
            lines.append(json.dumps({"offset": offset, "samples": len(pcm), **entry}))
            offset += len(pcm)
    unfinished = stem.with_suffix(".tmp")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.replace(stem.with_suffix(".jsonl"))
    return len(lines)


def main() -> None:
    """Plans all clips, then makes the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with asr_train.json and its audio")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--clips", type=int, default=30000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--exclude", type=Path, nargs="*", help="annotations whose texts must not be trained on"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="where the Debian data packages are unpacked"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    clips = plan(args)
    jobs = [(start // SHARD, clips[start : start + SHARD]) for start in range(0, len(clips), SHARD)]
    missing = [job for job in jobs if not (args.out / f"shard_{job[0]:04d}.jsonl").exists()]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        made = pool.imap_unordered(partial(make_shard, out=args.out), missing)
        count = sum(track(made, description="shards", total=len(missing)))
    print(f"{count} clips in {len(missing)} new shards of {len(jobs)} in {args.out}")


if __name__ == "__main__":
    main()
