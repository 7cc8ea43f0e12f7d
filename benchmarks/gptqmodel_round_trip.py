"""GPTQModel opens exported LLMs and gives our logits and perplexity: the judge of ``export --to gptq``.

From nothing (GPTQModel pins NumPy, so its environment cannot have all of ``constraints.txt``):

    python -m venv venv && . venv/bin/activate
    grep -v '^numpy==' constraints.txt > gptqmodel.txt
    pip install -c gptqmodel.txt -e '.[gptqmodel]'
    python -c 'import torchvision' || pip install torchvision  # of the index that torch came from
    OMP_NUM_THREADS=1 python -P benchmarks/gptqmodel_round_trip.py

``-P`` keeps the files beside this one from being taken for packages that transformers looks for. GPTQModel
imports torchvision without requiring it; ``.ci/gptqmodel`` puts a stand-in where no build can be had.

For each scheme the LLM of ``tiny`` is quantised by the pass ``gptq`` on calibration clips, saved, exported
and opened by GPTQModel. Both sides read the reference texts of the test clips, which gives perplexity, and:

* ``weights``: the largest difference of a weight as GPTQModel dequantises it, in units of the largest weight
  of its layer, which must be 0: what the file says is what we compute with;
* ``float32``: the same of logits with both sides computing in float32, in units of the largest logit. Only
  the orders of summation differ, so float32's rounding remains, and 1e-5 must be kept;
* ``bfloat16``: the same in the checkpoint's own type, where kernels differ, beside what the type alone costs:
  our own distance to float32. Theirs must not be farther than twice that.

The scales of progressive grids are products that bfloat16 rounds, by up to 2^-9 and the weights once more;
the export says so, and the first bound is 2^-8 for them, the second none.

GPTQModel 7.4 keeps what it found in ``dynamic`` by the address of that dictionary: once the first checkpoint
of a process is gone, a second one can be read with the entries of the first. So all of them are kept. Writes
results/gptqmodel_round_trip.json; exits with 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.data.loading import load_examples
from audiolm_compress.export import export
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.passes import Gptq
from audiolm_compress.passes.base import Context
from audiolm_compress.quantization import QuantizedLinear
from audiolm_compress.quantization.kernels import Dequantize
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import TINY, load_model

RESULT = Path(__file__).parent / "results" / "gptqmodel_round_trip.json"
SCHEMES: dict[str, dict[str, Any]] = {
    "4 bit, groups of 32": {"bits": 4, "group_size": 32},
    "4 bit, groups of 64, asymmetric": {"bits": 4, "group_size": 64, "symmetric": False},
    "4 bit, groups of 32, progressive": {"bits": 4, "group_size": 32, "progressive": True},
    "8 bit, whole rows": {"bits": 8, "group_size": -1},
    "3 bit, groups of 32": {"bits": 3, "group_size": 32},
    "2 bit, groups of 16, asymmetric": {"bits": 2, "group_size": 16, "symmetric": False},
    "mixed": {
        "bits": 4,
        "group_size": 32,
        "overrides": [
            {"match": "*.self_attn.*", "bits": 8, "group_size": -1},
            {"match": "*.o_proj", "bits": 3, "symmetric": False},
            {"match": "*.layers.1.mlp.down_proj", "skip": True},
        ],
    },
}
# Bounds; the last but one in units of our own distance to float32.
WEIGHTS, FLOAT32, BFLOAT16, SCALES = 0.0, 1e-5, 2.0, 2**-8
CALIBRATION_CLIPS = 16
OPENED: list[Any] = []


@torch.inference_mode()
def logits(llm: nn.Module, texts: list[Tensor]) -> list[Tensor]:
    """Of each text [1, length]: float32 [length, vocabulary]."""
    return [llm(input_ids=ids, use_cache=False).logits[0].float() for ids in texts]


def perplexity(found: list[Tensor], texts: list[Tensor]) -> float:
    losses = [
        F.cross_entropy(one[:-1], ids[0, 1:], reduction="sum").item()
        for one, ids in zip(found, texts, strict=True)
    ]
    return math.exp(sum(losses) / sum(ids.shape[1] - 1 for ids in texts))


def farthest(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference of logits, in units of the largest logit."""
    largest = max(logit.abs().max().item() for logit in one)
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True)) / largest


def in_float32(llm: nn.Module) -> nn.Module:
    """A copy that computes in float32, with plain weights: products of codes and scales in float32."""
    copied = copy.deepcopy(llm).float()
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, QuantizedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.load_state_dict(
                {"weight": layer.dense()} | ({} if layer.bias is None else {"bias": layer.bias})
            )
            copied.set_submodule(name, plain)
    return copied


def round_trip(scheme: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One scheme, from the recipe's entry to both sides' logits."""
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    model = load_model("tiny")
    model.merge_lora()
    model.cast(torch.bfloat16, ("llm",))
    clips = load_examples([TINY / "data" / "calibration.json"], prefix=TINY / "data").examples
    clips = clips[:: len(clips) // CALIBRATION_CLIPS]
    gptq = Gptq.model_validate(scheme | {"prefill_activations": 16})  # inputs of 8 bit are not in the format
    gptq.apply(model, Context(clips, torch.Generator().manual_seed(0), lambda: load_model("tiny")))
    done = export(store.save(model, folder / "model"), "gptq", folder / "gptq")

    llm = model.causal_lm.eval()
    tests = load_examples([TINY / "data" / "test.json"], prefix=TINY / "data").examples
    texts = [model.tokenizer(example.text, return_tensors="pt").input_ids for example in tests]
    texts = [ids for ids in texts if ids.shape[1] > 1]
    attention = llm.config._attn_implementation
    OPENED.append(
        GPTQModel.load(str(done.path), device="cpu", backend=BACKEND.TORCH, attn_implementation=attention)
    )
    opened = OPENED[-1].model.eval()
    theirs_of = dict(opened.named_modules())
    layers = {name: one for name, one in llm.named_modules() if isinstance(one, QuantizedLinear)}
    packed = {
        name: one for name, one in theirs_of.items() if name in layers and isinstance(one, BaseQuantLinear)
    }
    own = {name: Dequantize(layers[name].shape).dense(layers[name].stored()).float() for name in packed}
    weights = max(
        (one.dequantize_weight().T.float() - own[name]).abs().max() / own[name].abs().max()
        for name, one in packed.items()
    )
    ours, theirs = logits(llm, texts), logits(opened, texts)
    exact_logits = logits(in_float32(llm), texts)
    return {
        "settings": scheme,
        "notes": list(done.notes),
        "kernels": sorted({type(one).__name__ for one in packed.values()}),
        "layers": len(packed),
        "weights": float(weights),
        "float32": farthest(exact_logits, logits(opened.float(), texts)),
        "bfloat16": farthest(ours, theirs),
        "bfloat16_to_float32": {
            "ours": farthest(exact_logits, ours),
            "theirs": farthest(exact_logits, theirs),
        },
        "perplexity": {
            "ours": perplexity(ours, texts),
            "theirs": perplexity(theirs, texts),
            "float32": perplexity(exact_logits, texts),
        },
        "texts": len(texts),
        "tokens": sum(ids.shape[1] for ids in texts),
    }


def kept(result: dict[str, Any]) -> bool:
    """Whether all bounds are."""
    distances = result["bfloat16_to_float32"]
    if distances["theirs"] > BFLOAT16 * distances["ours"]:
        return False
    if result["settings"].get("progressive"):
        return result["weights"] <= SCALES
    return result["weights"] <= WEIGHTS and result["float32"] <= FLOAT32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scheme", choices=SCHEMES, action="append", help="may be repeated; all if left out")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    torch.compiler.set_stance("force_eager")  # compiling GPTQModel's kernels would take minutes a scheme
    results: dict[str, Any] = {}
    for name in chosen.scheme or SCHEMES:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = round_trip(SCHEMES[name], Path(folder))
        print(name, results[name], flush=True)
    environment = describe_environment("cpu", seed=0)
    environment["packages"] |= {name: version(name) for name in ("gptqmodel", "optimum")}
    bounds = {"weights": WEIGHTS, "float32": FLOAT32, "bfloat16": BFLOAT16, "progressive weights": SCALES}
    broken = [name for name, result in results.items() if not kept(result)]
    content = {"environment": environment, "bounds": bounds, "broken": broken, "schemes": results}
    chosen.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if broken:
        raise SystemExit(f"bounds are broken by: {', '.join(broken)}")


if __name__ == "__main__":
    main()
