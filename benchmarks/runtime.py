"""One token of an LLM: transformers' generate, its forward in a loop, this package's decoder, the products.

    python benchmarks/runtime.py                  # tiny, LoRA merged; a minute on one core
    python benchmarks/runtime.py out/gemma2_4bit  # any model that load_model takes
    python benchmarks/runtime.py --compile        # the decoder compiled as well

Figures are milliseconds of CPU time a token, medians on one thread, so that other work on the machine hardly
shows, and operations a token and layer: calls into PyTorch, those that only look at memory in another shape
included. `products` calls the projections of all layers and the head, and nothing else. Writes
results/runtime_<name>.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers.generation.streamers import BaseStreamer

from audiolm_compress import Salmonn, load_model
from audiolm_compress.runtime import fallback
from audiolm_compress.runtime.architecture import layers_of
from audiolm_compress.runtime.engine import Engine
from audiolm_compress.salmonn.generation import transformers_ids
from audiolm_compress.salmonn.wrapping import Inputs

RESULTS = Path(__file__).parent / "results"
TOKENS = 40
SECONDS = 10  # of the clip before


class Ticks(BaseStreamer):
    """CPU time at every token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Note the time of a token, or of the prompt."""
        self.times.append(time.thread_time())

    def end(self) -> None:
        """Nothing is left to do."""


def generate(model: Salmonn, inputs: Inputs) -> dict[str, float]:
    settings = model.decode_settings("asr", num_beams=1, max_new_tokens=TOKENS, min_length=0)
    own = model.causal_lm.generation_config.eos_token_id
    model.causal_lm.generation_config.eos_token_id = None  # every answer is of the same length
    try:
        ticks = Ticks()
        transformers_ids(model, inputs, settings, ticks)
    finally:
        model.causal_lm.generation_config.eos_token_id = own
    times = ticks.times[2:]  # without the prompt and the first token
    return {"ms": 1e3 * statistics.median(b - a for a, b in pairwise(times))}


def loop(start: Callable[[], tuple[torch.Tensor, Any]], layers: int) -> dict[str, float]:
    logits, reading = start()
    times = []
    for _ in range(TOKENS):
        begin = time.thread_time()
        logits = reading.step(logits.argmax(-1))
        times.append(time.thread_time() - begin)
    token = logits.argmax(-1)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        reading.step(token)
    calls = sum(event.cpu_parent is None for event in seen.events())
    return {"ms": 1e3 * statistics.median(times), "operations_a_layer": round(calls / layers, 1)}


def products(model: Salmonn) -> dict[str, float]:
    llm = model.causal_lm
    hidden = torch.zeros(1, 1, llm.config.hidden_size, dtype=llm.model.norm.weight.dtype)
    calls = []
    for layer in layers_of(llm):
        for projection in (layer.query, layer.key, layer.value, layer.gate, layer.up):
            calls.append((projection, hidden))
        wide = layer.query(hidden)
        calls += [(layer.output, wide), (layer.down, layer.up(hidden))]
    calls.append((llm.get_output_embeddings(), hidden))
    times = []
    for _ in range(TOKENS):
        begin = time.thread_time()
        for call, x in calls:
            call(x)
        times.append(time.thread_time() - begin)
    return {"ms": 1e3 * statistics.median(times), "operations_a_layer": 7}


@torch.inference_mode()
def measure(model: Salmonn, compiled: bool) -> dict[str, dict[str, float]]:
    model.merge_lora()
    noise = 0.1 * torch.randn(SECONDS * 16_000, generator=torch.Generator().manual_seed(0))
    inputs = model.prepare([noise], "asr")
    llm, layers = model.causal_lm, len(model.causal_lm.model.layers)
    paths: dict[str, Callable[[], dict[str, float]]] = {
        "transformers' generate": lambda: generate(model, inputs),
        "transformers' forward": lambda: loop(
            lambda: fallback.prefill(llm, inputs.embeds, inputs.mask), layers
        ),
        "decoder": lambda: loop(lambda: Engine(llm).prefill(inputs.embeds, inputs.mask), layers),
        "products": lambda: products(model),
    }
    if compiled:
        engine = Engine(llm, compiled=True)
        paths["decoder, compiled"] = lambda: loop(
            lambda: engine.prefill(inputs.embeds, inputs.mask, room=2 * TOKENS), layers
        )
    for path in paths.values():  # once for warming up
        path()
    return {name: path() for name, path in paths.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(load_model(arguments.model), arguments.compile)
    table = Table("path", "ms a token", "operations a layer")
    for name, row in figures.items():
        table.add_row(name, f"{row['ms']:.2f}", str(row.get("operations_a_layer", "")))
    Console().print(table)
    content = {"model": arguments.model, "processor": platform.processor() or platform.machine()}
    content |= {"torch": torch.__version__, "tokens": TOKENS, "figures": figures}
    file = RESULTS / f"runtime_{Path(arguments.model).name}.json"
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
