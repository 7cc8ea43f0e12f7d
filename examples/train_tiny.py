"""Trains the embedded baseline ``tiny``."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).parent / "tiny"))

from data import Item, plan_epoch, read_items
from listening import caption_score, ctc_texts, error_rate, listen
from network import PROMPTS, Network, Wording, new_connector, new_llm
from reading import read_aloud
from shards import read_clips, shard_names
from tokenizer import train_tokenizer, train_units

from audiolm_compress.metrics.wer import wer
from audiolm_compress.training import TrainSettings, train

AUDIO_WIDTH = 160


def load_vocabularies(folder: Path) -> tuple[PreTrainedTokenizerBase, Tokenizer]:
    """Tokenizer and units that `texts` made."""
    return AutoTokenizer.from_pretrained(folder / "tokenizer"), Tokenizer.from_file(str(folder / "units.json"))


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


def reading_rows(out: Path, units: Tokenizer) -> list[tuple[str, list[int]]]:
    """Sentences with their units, and captions without any."""
    speech, captions = json.loads((out / "texts.json").read_text(encoding="utf-8"))
    rows = [(text, units.encode(text).ids) for text in speech]
    chosen = random.Random(0).sample(captions, min(len(captions), len(rows) // 6))
    return rows + [(text, []) for text in chosen]


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
    rows = reading_rows(args.out, units)
    torch.manual_seed(0)
    network = Network(new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), units.get_vocab_size())
    for parameter in network.connector.parameters():
        parameter.requires_grad_(False)

    def loss(model: nn.Module, batch: list[int]) -> Tensor:
        rng = random.Random(int(torch.randint(2**31, ())))
        return read_aloud(model, wording, [rows[i] for i in batch], rng)

    settings = TrainSettings(
        steps=args.steps, learning_rate=2e-3, warmup=100, final_rate=0.1, mixed_precision=args.precision, save_every=50
    )
    with Progress() as progress:
        result = train(network, lambda epoch: plan_reading(rows, epoch), loss, settings, folder=args.out / "reading", progress=progress)
    print(result.curve[-1])
    torch.save(network.state_dict(), args.out / "reading.pt")


def stage_listening(args: argparse.Namespace) -> None:
    """Train connector and language model on cached states."""
    tokenizer, units = load_vocabularies(args.out)
    wording = Wording(tokenizer)
    encoders = ["whisper", "beats"] if args.beats else ["whisper"]
    items = cached_items(args.clips, args.cache, encoders, is_training)
    if args.asr_only:
        items = [item for item in items if item.kind == "asr"]
    valid = {n: cached_items(args.clips, args.cache, encoders, lambda name, n=n: name == n) for n in ("asr_valid", "mix_valid")}
    hours = sum(item.clip.samples for item in items) / 16000 / 3600
    print(f"{len(items)} clips, {hours:.1f} h, {sum(i.kind == 'asr' for i in items)} of them speech")
    torch.manual_seed(0)
    network = Network(new_connector(384, AUDIO_WIDTH), new_llm(tokenizer), units.get_vocab_size())
    network.load_state_dict(torch.load(args.start, weights_only=True))

    rows = reading_rows(args.out, units)

    def plan(epoch: int) -> list[tuple[str, list[int]]]:
        listening = plan_epoch(items, epoch, seed=args.seed, tokens=args.tokens, repeat={"audio/asterisk": 4, "asterisk": 2})
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
            return read_aloud(model, wording, [rows[i] for i in batch], rng)
        return listen(model, wording, units, [items[i] for i in batch], AUDIO_WIDTH, rng, ctc_weight=args.ctc)

    def validate(model: nn.Module) -> float:
        start = time.monotonic()
        rate, texts = error_rate(model, wording, valid["asr_valid"], AUDIO_WIDTH)
        heard = ctc_texts(model, units, valid["asr_valid"], AUDIO_WIDTH)
        rough = wer(heard, [item.clip.text for item in valid["asr_valid"]]).wer
        score = 0.0
        if not args.asr_only:
            score, _ = caption_score(model, wording, valid["mix_valid"], AUDIO_WIDTH)
        for item, text, units_text in list(zip(valid["asr_valid"], texts, heard, strict=True))[:3]:
            print("   ", item.clip.text, "|", text, "|", units_text)
        print(f"  wer {rate:.3f} ctc {rough:.3f} cider {score:.3f} ({time.monotonic() - start:.0f} s)", flush=True)
        return rate - 0.1 * min(score, 2.0)

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
        train(network, plan, loss, settings, folder=args.out / args.name, validate=validate, progress=progress)
    torch.save(network.state_dict(), args.out / f"{args.name}.pt")


def cached_items(folders: Sequence[Path], cache: Path, encoders: Sequence[str], wanted: Any) -> list[Item]:
    """Items of the wanted shards whose states are cached."""
    items = []
    for folder in folders:
        names = [n for n in shard_names(folder) if wanted(n) and all((cache / f"{n}.{e}.json").exists() for e in encoders)]
        items += read_items(folder, cache, names, encoders)
    return items


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("vocabulary", "reading", "listening"))
    parser.add_argument("--clips", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path)
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
    parser.add_argument("--beats", action="store_true")
    parser.add_argument("--asr-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.out.mkdir(parents=True, exist_ok=True)
    {"vocabulary": stage_vocabulary, "reading": stage_reading, "listening": stage_listening}[args.stage](args)


if __name__ == "__main__":
    main()
