"""Bytes and times at real size: the upstream arrangement, the seed's recipe, and our recipes.

    python benchmarks/full_size.py                           # Gemma-2-2B; half an hour on two cores
    python benchmarks/full_size.py --llm llama-3.2-3b
    python benchmarks/full_size.py --layers 2 --runs 1 --out /tmp/try.json        # to try it out

Weights are random, so there is no quality here; shapes, storage, kernels, memory and times are the real ones.
Every arrangement is written as a model folder and measured in a fresh process, loading included, as a
recipe's run measures its models. All of them run one after the other: compare their ratios, not their times
with those of another machine. Needs 24 GiB of memory and 10 GiB of disk for temporary files, and matplotlib.

Arrangements:
    upstream         encoders in float32, padded to 30 s; LLM in bfloat16, LoRA unmerged
    seed             the same encoders and LoRA, the LLM's layers in 4 bit, its 16-bit embedding untrimmed
    the recipe       recipes/gemma2_4bit.yaml (or llama3_4bit.yaml)

Writes results/full_size_<llm>.json and .svg.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from full_size_models import LLMS, change, upstream, write
from rich.console import Console
from rich.table import Table

from audiolm_compress.data.example import SAMPLE_RATE, Example
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.latency import generated_answer, timed_answer
from audiolm_compress.measurement.memory import PeakMeter
from audiolm_compress.measurement.rounds import quiet_clock
from audiolm_compress.passes import Gptq
from audiolm_compress.planning.layers import file_bytes
from audiolm_compress.quantization.modules import kernel_report
from audiolm_compress.recipe import load_recipe
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.load import load_model

ROOT = Path(__file__).parent
RECIPES = {"gemma-2-2b": ("gemma2_4bit",), "llama-3.2-3b": ("llama3_4bit",)}
SECONDS = (10, 30)
COLUMNS = ("weight_bytes", "peak_memory_bytes", "ttft_10s", "ttft_30s", "tpot_10s")


def make(arrangement: str, llm: str, layers: int | None, folder: Path) -> dict[str, Any]:
    """Write the model of an arrangement; what the plan says of its size."""
    sketch = upstream(llm, folder / "configs", layers)
    if arrangement == "seed":
        change(sketch, Gptq(bits=4, group_size=128, prefill_activations=16))
    elif arrangement != "upstream":
        for entry in load_recipe(ROOT.parent / "recipes" / f"{arrangement}.yaml").passes:
            change(sketch, entry)
    write(sketch.model, folder / "model")
    return {"predicted_file_bytes": file_bytes(sketch.layers()), "notes": sketch.notes}


def measure(folder: Path, runs: int, tokens: int) -> dict[str, Any]:
    """Load a folder and time answers to noise, greedily; this process is a fresh one."""
    noise = {
        seconds: torch.randn(
            seconds * SAMPLE_RATE, generator=torch.Generator().manual_seed(seconds), dtype=torch.float32
        )
        for seconds in SECONDS
    }
    device = torch.device("cpu")
    meter = PeakMeter(device)
    model = load_model(folder)
    meter.loaded()
    result: dict[str, Any] = {}
    with quiet_clock():
        for seconds, clip in noise.items():
            answers = [
                timed_answer(model, lambda clip=clip: model.prepare([clip], "asr"), tokens, frozenset())
                for _ in range(1 + runs)
            ][1:]
            result[f"ttft_{seconds}s"] = statistics.median(answer.first for answer in answers)
            result[f"tpot_{seconds}s"] = statistics.median(answer.per_token or 0.0 for answer in answers)
            result[f"prompt_{seconds}s"] = model.prepare([clip], "asr").embeds.shape[1]
            if seconds == SECONDS[0]:
                meter.noise_protocol_begins()
                meter.noise_protocol_ends()
                result["peak_memory_bytes"] = meter.result().peak
    peak_30s = meter.result().peak
    example = Example("noise", noise[SECONDS[0]], "asr", "")
    generate = DecodeSettings(max_new_tokens=tokens, min_length=0, num_beams=1)
    with quiet_clock():
        answers = [generated_answer(model, example, generate) for _ in range(1 + runs)][1:]
    result["transformers_ttft_10s"] = statistics.median(answer.first for answer in answers)
    result["transformers_tpot_10s"] = statistics.median(answer.per_token or 0.0 for answer in answers)
    parts = model.weight_bytes()
    return result | {
        "weight_bytes": sum(parts.values()),
        "weight_bytes_by_part": parts,
        "file_bytes": (folder / store.WEIGHTS).stat().st_size,
        "peak_memory_bytes_30s": peak_30s,
        "kernels": kernel_report(model),
    }


def in_fresh_process(*arguments: str) -> dict[str, Any]:
    """Run this script for one step of one arrangement."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(llm: str, arrangements: dict[str, dict[str, Any]]) -> Table:
    """Every figure and its ratio to the upstream arrangement."""
    shown = Table(title=f"SALMONN with {llm}, random weights: figures and ratios to upstream")
    shown.add_column("arrangement")
    heads = ("weights GiB", "peak GiB", "TTFT 10 s clip", "TTFT 30 s clip", "TPOT")
    for head in heads:
        shown.add_column(head, justify="right")
    first = arrangements["upstream"]
    for name, figures in arrangements.items():
        cells = []
        for column in COLUMNS:
            value = figures[column] / 2**30 if column.endswith("bytes") else figures[column]
            cells.append(f"{value:.3f}  {figures[column] / first[column]:.3f}x")
        shown.add_row(name, *cells)
    return shown


def plot(llm: str, arrangements: dict[str, dict[str, Any]], file: Path) -> None:
    """Bars: weights by part beside the ratios of all columns."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 1.6), layout="constrained")
    names = list(arrangements)
    bottom = [0.0] * len(names)
    for part in ("speech_encoder", "audio_encoder", "connector", "llm"):
        sizes = [arrangements[name]["weight_bytes_by_part"].get(part, 0) / 2**30 for name in names]
        left.bar(names, sizes, bottom=bottom, label=part.replace("_", " "))
        bottom = [low + size for low, size in zip(bottom, sizes, strict=True)]
    left.set_ylabel("weights, GiB")
    left.legend(frameon=False)
    left.tick_params(axis="x", rotation=20)
    first, width = arrangements["upstream"], 0.8 / len(names)
    for index, name in enumerate(names):
        ratios = [arrangements[name][column] / first[column] for column in COLUMNS]
        places = [place + index * width for place in range(len(COLUMNS))]
        bars = right.bar(places, ratios, width, label=name)
        right.bar_label(bars, fmt="%.2f", fontsize=7)
    right.set_xticks(
        [place + 0.4 - width / 2 for place in range(len(COLUMNS))],
        ["weights", "peak memory", "TTFT, 10 s", "TTFT, 30 s", "TPOT"],
    )
    right.set_ylabel("ratio to upstream")
    right.legend(frameon=False)
    figure.suptitle(f"SALMONN with {llm} at real size, random weights")
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", choices=sorted(LLMS), default="gemma-2-2b")
    parser.add_argument("--layers", type=int, help="at most this many layers of every stack")
    parser.add_argument("--runs", type=int, default=3, help="timed answers after one for warming up")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of an answer")
    parser.add_argument("--only", nargs="*", help="these arrangements; upstream is always measured")
    parser.add_argument("--out", type=Path, help="result file; default results/full_size_<llm>.json")
    parser.add_argument("--make", nargs=2, metavar=("ARRANGEMENT", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    console = Console(stderr=True)
    if chosen.make:
        print(json.dumps(make(chosen.make[0], chosen.llm, chosen.layers, Path(chosen.make[1]))))
        return
    if chosen.measure:
        gc.collect()
        print(json.dumps(measure(Path(chosen.measure), chosen.runs, chosen.tokens)))
        return
    names = ["upstream", *(chosen.only or ("seed", *RECIPES[chosen.llm]))]
    options = ["--llm", chosen.llm, "--runs", str(chosen.runs), "--tokens", str(chosen.tokens)]
    options += ["--layers", str(chosen.layers)] if chosen.layers else []
    arrangements = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="full_size_") as work:
            console.print(f"{name}: writing the model")
            made = in_fresh_process(*options, "--make", name, work)
            console.print(f"{name}: measuring")
            arrangements[name] = made | in_fresh_process(*options, "--measure", str(Path(work, "model")))
    Console(width=130).print(table(chosen.llm, arrangements))
    out = chosen.out or ROOT / "results" / f"full_size_{chosen.llm}.json"
    content = {
        "llm": chosen.llm,
        "layers": chosen.layers,
        "runs": chosen.runs,
        "tokens": chosen.tokens,
        "environment": describe_environment("cpu", 0),
        "arrangements": arrangements,
    }
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    plot(chosen.llm, arrangements, out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
