"""Peak memory of `load_model` on checkpoints of real size: how far it lies above the model's own size.

    python benchmarks/loading.py                                # Gemma-2-2B, Whisper-large-v3-turbo, BEATs
    python benchmarks/loading.py --checkpoint salmonn_7b --layers 4 --out /tmp/try.json     # to try it out

Weights are random; names, shapes, dtypes and files are the published ones (published.py), the LLM's once as
sharded safetensors and once as sharded `.bin`. Each load is a fresh process's. What is measured is the peak
of its resident set minus the one before loading, pages of mapped files included; the bound is the model's own
size in the dtypes it is loaded in and 2 GiB. Needs memory for the model and 12 GiB of disk for temporary
files.

Writes results/loading_<checkpoint>.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from published import Files, write_set, write_tokenizer
from published_shapes import BEATS, LLMS, WHISPERS
from result_file import write_result

from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.memory import PeakMeter
from audiolm_compress.salmonn.load import load_model

ROOT = Path(__file__).parent
# LLM and Whisper of each file in checkpoints/, and the dtypes of their published files.
SETS = {
    "gemma2_2b": ("gemma-2-2b", torch.bfloat16, "turbo", torch.float16),
    "llama3_2_3b": ("llama-3.2-3b", torch.bfloat16, "large-v2", torch.float32),
    "salmonn_7b": ("vicuna-7b-v1.5", torch.float16, "large-v2", torch.float32),
}
ALLOWED = 2 * 2**30
SHARD_BYTES = 5 * 10**9  # as the hub's tools cut by default
LOADS = (("safetensors", None), ("safetensors", "bfloat16"), ("bin", None), ("bin", "float16"))


def write(checkpoint: str, kind: Any, layers: int | None, folder: Path) -> Path:
    """Write a checkpoint of at most ``layers`` layers in every stack; its YAML."""
    llm_name, llm_dtype, whisper_name, speech_dtype = SETS[checkpoint]
    llm, whisper = dict(LLMS[llm_name]), dict(WHISPERS[whisper_name])
    if layers is not None:
        llm["num_hidden_layers"] = whisper["encoder_layers"] = whisper["decoder_layers"] = layers
    config = Path(shutil.copy(ROOT.parent / "checkpoints" / f"{checkpoint}.yaml", folder))
    write_set(config, llm, whisper, BEATS, Files(kind, llm_dtype, SHARD_BYTES), Files(dtype=speech_dtype))
    section = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    write_tokenizer(folder / section.get("gemma_path", section.get("llama_path")), llm["vocab_size"])
    return config


def measure(config: Path, dtype: str | None) -> dict[str, Any]:
    """Load a checkpoint; this process is a fresh one."""
    load_model("tiny")  # libraries, and what they set up at first use
    meter = PeakMeter(torch.device("cpu"))
    model = load_model(config, dtype=None if dtype is None else getattr(torch, dtype))
    meter.loaded()
    meter.noise_protocol_begins()
    size, peak = sum(model.weight_bytes().values()), meter.result().peak
    return {"model_bytes": size, "peak_bytes": peak, "above_bytes": peak - size}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", choices=sorted(SETS), default="gemma2_2b")
    parser.add_argument("--kinds", nargs="*", help="of files, such as bin; default: all")
    parser.add_argument("--layers", type=int, help="at most this many layers of every stack")
    parser.add_argument("--out", type=Path, help="result file; default results/loading_<checkpoint>.json")
    parser.add_argument("--measure", nargs=2, metavar=("CONFIG", "DTYPE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(Path(chosen.measure[0]), chosen.measure[1] or None)))
        return
    loads: list[dict[str, Any]] = []
    content = {
        "checkpoint": chosen.checkpoint,
        "layers": chosen.layers,
        "allowed_above_bytes": ALLOWED,
        "environment": describe_environment("cpu", 0),
        "loads": loads,
    }
    out = chosen.out or ROOT / "results" / f"loading_{chosen.checkpoint}.json"
    for kind in chosen.kinds or dict.fromkeys(kind for kind, _ in LOADS):
        with tempfile.TemporaryDirectory(prefix="loading_") as work:
            config = write(chosen.checkpoint, kind, chosen.layers, Path(work))
            for dtype in (dtype for other, dtype in LOADS if other == kind):
                done = subprocess.run(
                    [sys.executable, __file__, "--measure", str(config), dtype or ""],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                loads.append({"files": kind, "dtype": dtype, **json.loads(done.stdout.splitlines()[-1])})
                print(loads[-1], flush=True)
                write_result(out, content | {"met": all(one["above_bytes"] < ALLOWED for one in loads)})


if __name__ == "__main__":
    main()
