"""Trains the embedded baseline ``tiny``, stage by stage.

    python examples/train_tiny.py STAGE --clips FOLDER... --cache FOLDER --out FOLDER [options of the stage]

`tiny/README.md` tells how to fetch the recordings, how clips and cached states are made from them, and gives
the commands of all stages: ``vocabulary``, ``listening`` (the connector learns to name sub-word units and
sounds), ``reading`` (a language model learns to read such units), ``listening`` again with both, on the
padded form of inference, and with a LoRA beside the frozen language model, and ``bundle``.

Each stage continues where it was cut off. `benchmarks/results/tiny_training.json` holds the curves and scores
of the weights that the package ships, and what was done otherwise when they were made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).parent / "tiny"))

from assemble import assemble, score_folder
from bundle import Source, attribution, bundle_clips
from data import Item, Targets, plan_epoch, read_items
from features import Beats, Whisper
from listening import ctc_texts, listen, score
from network import PROMPTS, Network, Wording, new_connector, new_llm
from padding import Bank, make_bank
from reading import read_aloud
from shards import read_clips, shard_names
from tokenizer import train_tokenizer, train_units

from audiolm_compress.metrics.wer import wer
from audiolm_compress.salmonn.lora import add_lora
from audiolm_compress.salmonn.store import save
from audiolm_compress.training import CURVE, TrainSettings, train

AUDIO_WIDTH = 160


def load_vocabularies(folder: Path) -> tuple[PreTrainedTokenizerBase, Tokenizer]:
    """Tokenizer and units that `texts` made."""
    return AutoTokenizer.from_pretrained(folder / "tokenizer"), Tokenizer.from_file(
        str(folder / "units.json")
    )


def stage_vocabulary(args: argparse.Namespace) -> None:
    """Train both vocabularies on the texts of all training shards."""
    speech, captions = gather_texts(args.clips)
    prompts = [PROMPTS.template.replace("{}", p) for many in PROMPTS.train.values() for p in many]
    prompts = [p.replace("<SpeechHere>", " ") for p in prompts]
    tokenizer = train_tokenizer([*speech, *captions, *(p for p in prompts for _ in range(500))])
    tokenizer.save_pretrained(args.out / "tokenizer")
    train_units(speech).save(str(args.out / "units.json"))
    (args.out / "texts.json").write_text(json.dumps([speech, captions]), encoding="utf-8")
    print(f"{len(speech)} sentences, {len(captions)} captions, {len(tokenizer)} tokens")


def gather_texts(folders: Sequence[Path]) -> tuple[list[str], list[str]]:
    """All different sentences and captions of the training shards."""
    speech: dict[str, None] = {}
    captions: dict[str, None] = {}
    for folder in folders:
        for name in shard_names(folder):
            if is_training(name):
                for clip in read_clips(folder, name):
                    if clip.task == "asr":
                        speech[clip.text] = None
                    else:
                        captions |= dict.fromkeys(clip.texts)
    return list(speech), list(captions)


def is_training(name: str) -> bool:
    """Whether a shard is for training."""
    return not name.endswith(("_test", "_valid", "_calib", "_heldout"))


def reading_rows(args: argparse.Namespace, targets: Targets) -> list[tuple[str, list[int]]]:
    """Texts of the training clips, and further ones, with the units that they are to be written from."""
    rows = {}
    for folder in args.clips:
        for name in filter(is_training, shard_names(folder)):
            for clip in read_clips(folder, name):
                if units := targets(clip):
                    rows[clip.text] = units
    if args.texts:
        for text in args.texts.read_text(encoding="utf-8").splitlines():
            rows.setdefault(text, targets.units.encode(text).ids)
    return list(rows.items())


def read_targets(args: argparse.Namespace, units: Tokenizer) -> Targets:
    """Units of text and of the recordings of aac_train."""
    recordings = [clip.source for clip in read_clips(args.clips[-1], "aac_train")]
    return Targets(units, recordings)


def plan_reading(rows: Sequence[tuple[str, list[int]]], epoch: int, size: int = 64) -> list[list[int]]:
    """Batches of texts of similar length in random order."""
    rng = random.Random(epoch)
    order = rng.sample(range(len(rows)), len(rows))
    batches = []
    for begin in range(0, len(order), 6400):
        pool = sorted(order[begin : begin + 6400], key=lambda i: len(rows[i][0]))
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    rng.shuffle(batches)
    return batches


def stage_reading(args: argparse.Namespace) -> None:
    """Teach a new language model to read units."""
    tokenizer, units = load_vocabularies(args.out)
    wording = Wording(tokenizer)
    targets = read_targets(args, units)
    rows = reading_rows(args, targets)
    torch.manual_seed(0)
    network = Network(new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), read_targets(args, units).count)
    if args.start:
        network.load_state_dict(torch.load(args.start, weights_only=True))
        network.llm = new_llm(tokenizer)
        network.name_tokens(tokenizer, units)
        network.units.requires_grad_(False)
    network.connector.requires_grad_(False)

    def loss(model: nn.Module, batch: list[int]) -> Tensor:
        rng = random.Random(int(torch.randint(2**31, ())))
        return read_aloud(model, wording, [rows[i] for i in batch], targets.first, rng)

    settings = TrainSettings(
        steps=args.steps,
        learning_rate=2e-3,
        warmup=100,
        final_rate=0.1,
        mixed_precision=args.precision,
        save_every=50,
    )
    with Progress() as progress:
        result = train(
            network,
            lambda epoch: plan_reading(rows, epoch),
            loss,
            settings,
            folder=args.out / args.name,
            progress=progress,
        )
    print(result.curve[-1])
    torch.save(network.state_dict(), args.out / f"{args.name}.pt")


def stage_listening(args: argparse.Namespace) -> None:
    """Train connector and language model on cached states."""
    tokenizer, units = load_vocabularies(args.out)
    wording = Wording(tokenizer)
    encoders = ["whisper", "beats"] if args.beats else ["whisper"]
    items = chosen_items(args, args.cache, encoders)
    own = chosen_items(args, args.own, encoders) if args.own else []
    if own and [item.clip for item in own] != [item.clip for item in items]:
        raise SystemExit(f"{args.own} and {args.cache} must hold states of the same clips")
    valid = {
        (n, cache): cached_items(args.clips, cache, encoders, lambda name, n=n: name == n)
        for n in ("asr_valid", "mix_valid")
        for cache in (args.cache, args.own)
        if cache
    }
    hours = sum(item.clip.samples for item in items) / 16000 / 3600
    print(f"{len(items)} clips, {hours:.1f} h, {sum(i.kind == 'asr' for i in items)} of them speech")
    torch.manual_seed(0)
    network = Network(new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), read_targets(args, units).count)
    if args.start:
        network.load_state_dict(torch.load(args.start, weights_only=True))
    bank = None
    if args.padded:
        bank = load_bank(args)
    if args.lora:
        freeze_llm(network)

    targets = read_targets(args, units)
    rows = reading_rows(args, targets)

    def plan(epoch: int) -> list[tuple[str, list[int]]]:
        listening = plan_epoch(
            items, epoch, seed=args.seed, tokens=args.tokens, repeat={"audio/asterisk": 4, "asterisk": 3}
        )
        readings = iter(plan_reading(rows, epoch))
        mixed = []
        for i, batch in enumerate(listening):
            mixed.append(("listen", batch))
            if args.read and i % args.read == 0:
                mixed.append(("read", next(readings)))
        return mixed

    def loss(model: nn.Module, entry: tuple[str, list[int]]) -> Tensor:
        rng = random.Random(int(torch.randint(2**31, ())))
        kind, batch = entry
        if kind == "read":
            return read_aloud(model, wording, [rows[i] for i in batch], targets.first, rng)
        at_own_length = bool(own) and rng.random() < 0.5
        return listen(
            model,
            wording,
            targets,
            [(own if at_own_length else items)[i] for i in batch],
            AUDIO_WIDTH,
            rng,
            ctc_weight=args.ctc,
            bank=None if at_own_length else bank,
            whole=at_own_length,
        )

    def validate(model: nn.Module) -> float:
        start = time.monotonic()
        worth = []
        for cache in (args.cache, args.own) if args.own else (args.cache,):
            form = {"bank": None, "whole": True} if cache == args.own else {"bank": bank}
            speech, sounds = valid["asr_valid", cache], valid["mix_valid", cache]
            rate, texts = score(model, wording, speech, AUDIO_WIDTH, **form)
            heard = ctc_texts(model, targets, speech, AUDIO_WIDTH)
            rough = wer(heard, [item.clip.text for item in speech]).wer
            cider, _ = score(model, wording, sounds, AUDIO_WIDTH, **form)
            for item, text, units_text in list(zip(speech, texts, heard, strict=True))[:3]:
                print("   ", item.clip.text, "|", text, "|", units_text)
            print(
                f"  {cache.name}: wer {rate:.3f} ctc {rough:.3f} cider {cider:.3f} "
                f"({time.monotonic() - start:.0f} s)",
                flush=True,
            )
            worth.append(rate - 0.1 * min(cider, 2.0))
        return sum(worth) / len(worth)

    print(len(plan(0)), "batches an epoch")
    settings = TrainSettings(
        steps=args.steps,
        learning_rate=args.rate,
        warmup=args.warmup,
        final_rate=0.02,
        mixed_precision=args.precision,
        validate_every=args.validate_every,
        save_every=60,
        log_every=20,
        clip_norm=1.0,
    )
    with Progress() as progress:
        train(
            network, plan, loss, settings, folder=args.out / args.name, validate=validate, progress=progress
        )
    torch.save(network.state_dict(), args.out / f"{args.name}.pt")


def stage_bundle(args: argparse.Namespace) -> None:
    """Assemble the model, write it with its clips, load it again and score what was loaded."""
    tokenizer, units = load_vocabularies(args.out)
    network = Network(new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), read_targets(args, units).count)
    freeze_llm(network)
    network.load_state_dict(torch.load(args.start, weights_only=True))
    model = assemble(network, tokenizer, args.whisper, args.beats_weights)
    half = dict.fromkeys(("speech_encoder", "audio_encoder", "connector"), torch.float16)
    save(model, args.model, storage=half)
    test = bundle_clips(read_sources(args.test), args.model / "data", "test", {"asr_test": ".flac"})
    calibration = bundle_clips(read_sources(args.calibration), args.model / "data", "calibration", {})
    (args.model / "ATTRIBUTION.md").write_text(attribution([*test, *calibration]), encoding="utf-8")
    scores = score_folder(args.model, "test")
    result = {
        "scores": {
            name: {"metric": group["metric"], "score": group["score"]} for name, group in scores.items()
        },
        "notes": args.notes,
        "data": count_data(args),
        "stages": {name: read_stage(args.out / name) for name in args.stages},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "answers": {name: group["clips"] for name, group in scores.items()},
    }
    args.result.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result["scores"], indent=1))


def count_data(args: argparse.Namespace) -> dict[str, Any]:
    """Clips and hours of the training shards, by kind and by voice or collection."""
    clips = [c for f in args.clips for n in shard_names(f) if is_training(n) for c in read_clips(f, n)]
    voices = Counter("real sounds" if c.task != "asr" else voice_of(c.source) for c in clips)
    hours = {
        kind: round(
            sum(c.samples for c in clips if (c.task == "asr") == (kind == "speech")) / 16000 / 3600, 2
        )
        for kind in ("speech", "sounds")
    }
    return {"clips": len(clips), "hours": hours, "clips_by_source": dict(voices.most_common())}


def voice_of(source: str) -> str:
    """``flite:slt`` and the like; all of espeak's voices as one, and real prompts by how they were made."""
    if source.startswith("audio/"):
        return "asterisk, as recorded"
    return source.partition(":")[0] if source.startswith("espeak") else source


def read_stage(folder: Path) -> dict[str, Any]:
    """Steps, seconds and curve of a stage; the clock of a stage that was continued starts again."""
    curve = json.loads((folder / CURVE).read_text(encoding="utf-8"))
    clock = [point["seconds"] for point in curve if "seconds" in point]
    ends = [a for a, b in itertools.pairwise([*clock, 0.0]) if b < a]
    return {"steps": curve[-1]["step"], "seconds": round(sum(ends)), "curve": curve}


def read_sources(texts: Sequence[str]) -> list[Source]:
    """``GROUP=ANNOTATION[:LIMIT]`` with an optional ``@ROOT`` behind the annotation."""
    sources = []
    for text in texts:
        group, _, rest = text.partition("=")
        rest, _, limit = rest.partition(":")
        file, _, root = rest.partition("@")
        annotation = Path(file)
        sources.append(
            Source(
                annotation, Path(root) if root else annotation.parent, group, int(limit) if limit else None
            )
        )
    return sources


def load_bank(args: argparse.Namespace) -> Bank:
    """The bank of padded states; made at the first call."""
    path = args.out / "bank.pt"
    if not path.exists():
        whisper, beats = Whisper(args.whisper), Beats(args.beats_weights)
        torch.save(vars(make_bank(whisper, beats, args.clips[-1], ("asr_train", "aac_train"), 96)), path)
    return Bank(**torch.load(path, weights_only=True))


def freeze_llm(network: Network) -> None:
    """Round the language model to bfloat16, as it will be stored, and put a LoRA beside it to be trained."""
    for parameter in network.llm.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    network.llm = add_lora(
        network.llm, r=8, lora_alpha=32, lora_dropout=0.1, target_modules=("q_proj", "v_proj")
    )
    network.units.requires_grad_(False)


def chosen_items(args: argparse.Namespace, cache: Path, encoders: Sequence[str]) -> list[Item]:
    """The training clips whose states are cached, with a share of those of sounds."""

    def wanted(name: str) -> bool:
        return is_training(name) and (not args.own or (args.own / f"{name}.beats.json").exists())

    kept = random.Random(args.seed)
    items = cached_items(args.clips, cache, encoders, wanted)
    return [item for item in items if item.kind == "asr" or kept.random() < args.sounds]


def cached_items(folders: Sequence[Path], cache: Path, encoders: Sequence[str], wanted: Any) -> list[Item]:
    """Items of the wanted shards whose states are cached."""
    items = []
    for folder in folders:
        names = [
            n
            for n in shard_names(folder)
            if wanted(n) and all((cache / f"{n}.{e}.json").exists() for e in encoders)
        ]
        items += read_items(folder, cache, names, encoders)
    return items


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("vocabulary", "reading", "listening", "bundle"))
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--own", type=Path, help="cache of clips at their own length: half of the batches")
    parser.add_argument("--texts", type=Path, help="further sentences to read, one a line (texts.py)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--validate-every", type=int, default=200)
    parser.add_argument("--ctc", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="listening")
    parser.add_argument("--start", type=Path)
    parser.add_argument("--read", type=int, default=0, help="one batch of reading after so many of listening")
    parser.add_argument("--model", type=Path, help="folder to write (bundle)")
    parser.add_argument("--stages", nargs="*", default=[], help="stages whose curves to report (bundle)")
    parser.add_argument("--notes", nargs="*", default=[], help="remarks for the result file (bundle)")
    parser.add_argument("--result", type=Path, help="file for the scores (bundle)")
    parser.add_argument("--test", nargs="+", default=[], help="GROUP=ANNOTATION[@ROOT][:LIMIT] (bundle)")
    parser.add_argument("--calibration", nargs="+", default=[], help="as --test (bundle)")
    parser.add_argument("--padded", action="store_true", help="train on the padded form")
    parser.add_argument(
        "--lora", action="store_true", help="train connector and LoRA; the language model is frozen"
    )
    parser.add_argument("--whisper", type=Path, help="folder of the Whisper encoder, for --padded")
    parser.add_argument("--beats-weights", type=Path, help="file of the BEATs encoder, for --padded")
    parser.add_argument("--beats", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sounds", type=float, default=1.0, help="share of the clips of sounds that is used")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    stages = {
        "vocabulary": stage_vocabulary,
        "reading": stage_reading,
        "listening": stage_listening,
        "bundle": stage_bundle,
    }
    stages[args.stage](args)


if __name__ == "__main__":
    main()
