"""Hold our GPTQ against GPTQModel: same model, tokens, bits and group size; held-out perplexity and time.

    python benchmarks/gptq_rival.py --model smollm2 --calibration a.txt --held-out b.txt \
        --rival-python /path/to/python/with/gptqmodel --format 4:128 --format 4:32 --format 3:32

Each engine runs in a process of its own, one after the other. Both get the weights in bfloat16 and symmetric
grids, all else as its makers ship it. Perplexity is that of bfloat16 models with the quantised weights
written back as dense ones, computed by the same code, so that kernels play no part. Writes
results/gptq_rival.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results" / "gptq_rival.json"


def windows(tokenizer: Any, path: str, count: int, length: int) -> list[Tensor]:
    """``count`` pieces [1, length] of a text, evenly spread over it."""
    ids = tokenizer(Path(path).read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    pieces = ids[: len(ids) // length * length].view(-1, 1, length)
    if len(pieces) < count:
        raise SystemExit(f"{path} has {len(pieces)} pieces of {length} tokens, {count} are needed")
    return [pieces[i * len(pieces) // count] for i in range(count)]


@torch.no_grad()
def perplexity(model: nn.Module, batches: list[Tensor]) -> float:
    loss, tokens = 0.0, 0
    for ids in batches:
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        loss += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += len(logits)
    return math.exp(loss / tokens)


def densify(model: nn.Module, weight_of: Any) -> None:
    """Put dense layers in the place of quantised ones."""
    for name, module in list(model.named_modules()):
        weight = weight_of(module)
        if weight is not None:
            linear = nn.Linear(
                weight.shape[1], weight.shape[0], bias=module.bias is not None, dtype=torch.bfloat16
            )
            linear.weight.data = weight.to(torch.bfloat16).contiguous()
            if module.bias is not None:
                linear.bias.data = module.bias.to(torch.bfloat16)
            model.set_submodule(name, linear)


def ours(path: str, calibration: list[Tensor], bits: int, group_size: int) -> tuple[nn.Module, float]:
    from transformers import AutoModelForCausalLM

    from audiolm_compress.passes.gptq_llm import quantize_llm
    from audiolm_compress.quantization import QuantizedLinear

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    start = time.perf_counter()
    quantize_llm(model, calibration, bits=bits, group_size=group_size)
    seconds = time.perf_counter() - start
    densify(model, lambda module: module.dense() if isinstance(module, QuantizedLinear) else None)
    return model, seconds


def gptqmodel(path: str, calibration: list[Tensor], bits: int, group_size: int) -> tuple[nn.Module, float]:
    cores = os.cpu_count() or 1
    os.cpu_count = lambda: max(4, cores)  # its thread pools refuse to start with fewer
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=bits, group_size=group_size, sym=True)
    model = GPTQModel.load(path, config, dtype=torch.bfloat16, device="cpu")
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in calibration]
    start = time.perf_counter()
    model.quantize(data, batch_size=1)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        loaded = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH).model

    def weight_of(module: nn.Module) -> Tensor | None:
        return module.dequantize_weight().T if hasattr(module, "dequantize_weight") else None

    densify(loaded, weight_of)
    return loaded.to(torch.bfloat16), seconds


def worker(arguments: argparse.Namespace) -> dict[str, Any]:
    """One engine, one format."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    calibration = windows(tokenizer, arguments.calibration, arguments.calibration_windows, arguments.length)
    held_out = windows(tokenizer, arguments.held_out, arguments.held_out_windows, arguments.length)
    if arguments.engine == "none":
        dense = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
        return {"perplexity": perplexity(dense, held_out)}
    bits, group_size = map(int, arguments.format[0].split(":"))
    engine = {"ours": ours, "gptqmodel": gptqmodel}[arguments.engine]
    model, seconds = engine(arguments.model, calibration, bits, group_size)
    return {"perplexity": perplexity(model, held_out), "seconds": round(seconds, 1)}


def run(arguments: argparse.Namespace, engine: str, chosen: str) -> dict[str, Any]:
    """A worker process; its last line is the result."""
    python = arguments.rival_python if engine == "gptqmodel" else sys.executable
    passed = [
        "--model",
        arguments.model,
        "--calibration",
        arguments.calibration,
        "--held-out",
        arguments.held_out,
        "--length",
        str(arguments.length),
        "--calibration-windows",
        str(arguments.calibration_windows),
        "--held-out-windows",
        str(arguments.held_out_windows),
        "--format",
        chosen,
        "--engine",
        engine,
    ]
    done = subprocess.run(
        [python, __file__, *passed],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="directory or hub id")
    parser.add_argument("--calibration", required=True, help="text file")
    parser.add_argument("--held-out", required=True, help="text file")
    parser.add_argument("--rival-python", default=sys.executable, help="interpreter that has gptqmodel")
    parser.add_argument("--format", action="append", required=True, metavar="BITS:GROUP")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--calibration-windows", type=int, default=64)
    parser.add_argument("--held-out-windows", type=int, default=32)
    parser.add_argument("--engine", choices=["none", "ours", "gptqmodel"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(worker(arguments)))
        return
    result: dict[str, Any] = {
        "model": Path(arguments.model).name,
        "length": arguments.length,
        "threads": torch.get_num_threads(),
        "calibration_windows": arguments.calibration_windows,
        "held_out_windows": arguments.held_out_windows,
        "torch": torch.__version__,
        "unquantised": run(arguments, "none", arguments.format[0]),
        "formats": {},
    }
    for chosen in arguments.format:
        result["formats"][chosen] = {
            engine: run(arguments, engine, chosen) for engine in ("ours", "gptqmodel")
        }
        print(chosen, result["formats"][chosen], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
