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
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "tiny"))

from assemble import assemble, score_folder
from bundle import bundle_clips, bundle_more, read_sources
from corpus import cached_items, chosen_items, gather_texts, load_vocabularies, read_targets, reading_rows
from data import plan_epoch
from listening import answers, ctc_texts, listen, score
from network import PROMPTS, Network, Wording, freeze_llm, new_connector, new_llm
from padding import load_bank
from reading import plan_reading, read_aloud
from record import count_data, read_stage
from tokenizer import train_tokenizer, train_units

from audiolm_compress.metrics.wer import wer
from audiolm_compress.salmonn.store import save
from audiolm_compress.training import TrainSettings, train

AUDIO_WIDTH = 160


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


def stage_reading(args: argparse.Namespace) -> None:
    """Teach a new language model to read units."""
    tokenizer, units = load_vocabularies(args.out)
    wording = Wording(tokenizer)
    targets = read_targets(args.clips, units)
    rows = reading_rows(args.clips, args.texts, targets)
    torch.manual_seed(0)
    network = Network(new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), targets.count)
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
    choice: dict[str, Any] = {"own": args.own, "sounds": args.sounds, "seed": args.seed}
    items = chosen_items(args.clips, args.cache, encoders, **choice)
    own = chosen_items(args.clips, args.own, encoders, **choice) if args.own else []
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
    targets = read_targets(args.clips, units)
    torch.manual_seed(0)
    network = Network(new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), targets.count)
    if args.start:
        network.load_state_dict(torch.load(args.start, weights_only=True))
    bank = None
    if args.padded:
        bank = load_bank(args.out / "bank.pt", args.clips[-1], args.whisper, args.beats_weights)
    if args.lora:
        freeze_llm(network)

    rows = reading_rows(args.clips, args.texts, targets)

    def plan(epoch: int) -> list[tuple[str, list[int]]]:
        listening = plan_epoch(
            items, epoch, seed=args.seed, tokens=args.tokens, repeat={"audio/asterisk": 4, "asterisk": 3}
        )
        readings = itertools.cycle(plan_reading(rows, epoch))
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
            texts = answers(model, wording, speech, AUDIO_WIDTH, **form)
            rate = score(speech, texts)
            heard = ctc_texts(model, targets, speech, AUDIO_WIDTH)
            rough = wer(heard, [item.clip.text for item in speech]).wer
            cider = score(sounds, answers(model, wording, sounds, AUDIO_WIDTH, **form))
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
    network = Network(
        new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), read_targets(args.clips, units).count
    )
    freeze_llm(network)
    network.load_state_dict(torch.load(args.start, weights_only=True))
    model = assemble(network, tokenizer, args.whisper, args.beats_weights)
    half = dict.fromkeys(("speech_encoder", "audio_encoder", "connector"), torch.float16)
    save(model, args.model, storage=half)
    bundle_clips(read_sources(args.test), args.model / "data", "test", {"asr_test": ".flac"})
    bundle_clips(read_sources(args.calibration), args.model / "data", "calibration", {})
    bundle_more(args.training, args.validation, args.model)
    scores = score_folder(args.model, "test")
    result = {
        "scores": {
            name: {"metric": group["metric"], "score": group["score"]} for name, group in scores.items()
        },
        "notes": args.notes,
        "data": count_data(args.clips),
        "stages": {name: read_stage(args.out / name) for name in args.stages},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
        "answers": {name: group["clips"] for name, group in scores.items()},
    }
    args.result.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result["scores"], indent=1))


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
    parser.add_argument("--training", nargs="+", default=[], help="as --test (bundle)")
    parser.add_argument("--validation", nargs="+", default=[], help="as --test (bundle)")
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
