"""llama.cpp runs exported LLMs: its tokens, logits and perplexity against ours, the judge of ``--to gguf``.

From nothing (llama-cpp-python builds llama.cpp with cmake and a C++ compiler):

    python -m venv venv && . venv/bin/activate
    pip install -c constraints.txt -e '.[gguf]'
    pip install -c constraints.txt llama-cpp-python
    OMP_NUM_THREADS=1 python benchmarks/gguf_llama_cpp.py

Five LLMs, each in every type: ``tiny``'s, the same after the pass ``gptq`` (4 bit, groups of 32; its
integers stay in q4_0 and q8_0), and three random ones on the byte-level tokenizer of the parity
set: its Llama, a Llama with the scaled frequencies of Llama 3, a Qwen 2. Both sides read the reference texts
of the test clips, and all of these joined and cut at 400 tokens, which is longer than tiny's sliding window
and than the context that the frequencies are scaled from. For each file:

* ``equal_texts``: the share of texts of which llama.cpp makes the same token ids;
* ``logits``: the largest difference of a logit from ours in float32, in units of the largest logit. llama.cpp
  looks activations up in tables of float16, and rounds inputs to the type of the weights or to 8 bit;
* ``next_tokens``: the share of positions at which the token of the highest logit is the same;
* ``perplexity`` of both.

Besides, for every pattern that the byte-level tokenizer of the parity set could split texts by, ``patterns``
is the share of texts of equal tokens, some of them hard to split.

Bounds hold for the tokens, and for logits where weights are float32: in other types they tell of the model,
of which the parity set's is so steep that 8 bits move its logits by a third.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from llama_cpp import GGML_TYPE_F32, Llama
from result_file import write_result
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.loading import load_examples
from audiolm_compress.export.dense import dense_state
from audiolm_compress.export.gguf import TYPES, write_gguf
from audiolm_compress.export.gguf_vocabulary import PATTERNS
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.passes import Gptq
from audiolm_compress.passes.base import Context
from audiolm_compress.salmonn.load import TINY, load_model
from audiolm_compress.salmonn.model import Salmonn

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "gguf_llama_cpp.json"
PARITY = ROOT / "tests" / "fixtures" / "upstream_parity" / "llama" / "config.yaml"
FLOAT32 = 1e-3  # bound of `logits` in f32
HARD = [
    "  spaces   and\ttabs \n\n\n lines\r\n end  ",
    "12345 67 8, 3.14159 and 1st; x2y34z",
    "it's WE'LL they'Re don't 'quoted'",
    "d\u00e9j\u00e0 vu, \u6f22\u5b57 \u0438 \U0001f642\u200d!!?...",
    "<s>special</s> tokens<unk>",
]
LONGEST = 400  # tokens of the joined text
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def with_llm(config: Any) -> Salmonn:
    """The parity set's model with another random LLM, whose vectors are no constants."""
    model = load_model(PARITY)
    torch.manual_seed(0)
    config.vocab_size = model.causal_lm.config.vocab_size
    model.llm = AutoModelForCausalLM.from_config(config)
    for parameter in model.llm.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def quantized_tiny() -> Salmonn:
    model = load_model("tiny")
    model.merge_lora()
    model.cast(torch.bfloat16, ("llm",))
    clips = load_examples([TINY / "data" / "calibration.json"], prefix=TINY / "data").examples[:16]
    context = Context(clips, torch.Generator().manual_seed(0), lambda: load_model("tiny"))
    Gptq(bits=4, group_size=32, prefill_activations=16).apply(model, context)
    return model


MODELS: dict[str, Callable[[], Salmonn]] = {
    "tiny's Gemma 2": lambda: load_model("tiny"),
    "the same, GPTQ": quantized_tiny,
    "Llama": lambda: load_model(PARITY),
    "Llama 3": lambda: with_llm(LlamaConfig(**SIZES, rope_parameters=SCALED)),
    "Qwen 2": lambda: with_llm(Qwen2Config(**SIZES, tie_word_embeddings=True)),
}


def texts() -> list[str]:
    """References of the test clips, each once, and all of them in one."""
    references = dict.fromkeys(
        t for entry in read_annotation(TINY / "data" / "test.json") for t in entry.texts
    )
    return [*references, " ".join(references)]


def with_pattern(pattern: str, ignore_merges: bool) -> Salmonn:
    """The parity set's model with a tokenizer that splits texts by another of the patterns that are known."""
    model = load_model(PARITY)
    content = json.loads(model.tokenizer.backend_tokenizer.to_str())
    bytes_ = content["pre_tokenizer"] | {"use_regex": pattern in ("", "digits")}
    before = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    if pattern == "digits":
        before = {"type": "Digits", "individual_digits": True}
    if pattern:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [before, bytes_]}
    content["model"]["ignore_merges"] = ignore_merges
    model.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    model.merge_lora()
    return model


def patterns() -> dict[str, float]:
    """For each name of a pattern the share of texts, hard ones among them, of equal tokens."""
    shares = {}
    for (pattern, ignore_merges), name in PATTERNS.items():
        model = with_pattern(pattern, ignore_merges)
        expected = [model.tokenizer(text).input_ids for text in (*HARD, *texts())]
        with tempfile.TemporaryDirectory() as folder:
            write_gguf(model, Path(folder))
            (file,) = Path(folder).glob("*.gguf")
            llm = Llama(str(file), vocab_only=True, verbose=False)
            found = [llm.tokenize(text.encode(), special=True) for text in (*HARD, *texts())]
        shares[name] = sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
    return shares


def perplexity(logits: list[Tensor], ids: list[list[int]]) -> float:
    losses = [
        F.cross_entropy(one[:-1], torch.tensor(i[1:]), reduction="sum").item()
        for one, i in zip(logits, ids, strict=True)
    ]
    return math.exp(sum(losses) / sum(len(i) - 1 for i in ids))


@torch.inference_mode()
def ours(model: Salmonn) -> tuple[list[list[int]], list[Tensor]]:
    """Ids of all texts, and of each the float32 logits [length, vocabulary]."""
    ids = [model.tokenizer(text).input_ids for text in texts()]
    llm = AutoModelForCausalLM.from_config(model.causal_lm.config)
    llm.load_state_dict(dense_state(model.causal_lm, torch.float32).tensors)
    llm.eval()
    return ids, [llm(input_ids=torch.tensor([one[:LONGEST]]), use_cache=False).logits[0] for one in ids]


def in_llama_cpp(file: Path, ids: list[list[int]]) -> tuple[list[list[int]], list[Tensor]]:
    """What llama.cpp makes of the texts, and its logits for ``ids``."""
    llm = Llama(
        str(file),
        n_ctx=512,
        logits_all=True,
        type_k=GGML_TYPE_F32,  # the cache would be float16
        type_v=GGML_TYPE_F32,
        n_threads=1,
        n_threads_batch=1,
        verbose=False,
    )
    tokens = [llm.tokenize(text.encode(), add_bos=True, special=True) for text in texts()]
    logits = []
    for one in ids:
        llm.reset()
        llm.eval(one[:LONGEST])
        logits.append(torch.from_numpy(np.array(llm.scores[: llm.n_tokens])))
    return tokens, logits


def compared(
    model: Salmonn, kind: str, folder: Path, ids: list[list[int]], expected: list[Tensor]
) -> dict[str, Any]:
    """Write a model in a type and hold llama.cpp's figures against ours."""
    notes = write_gguf(model, folder, kind=kind)
    (file,) = folder.glob("*.gguf")
    tokens, found = in_llama_cpp(file, ids)
    pairs = list(zip(found, expected, strict=True))
    largest = max(one.abs().max().item() for one in expected)
    read = [one[:LONGEST] for one in ids]
    return {
        "file": file.name,
        "notes": notes,
        "bytes": file.stat().st_size,
        "equal_texts": sum(a == b for a, b in zip(tokens, ids, strict=True)) / len(ids),
        "logits": max((a - b).abs().max().item() for a, b in pairs) / largest,
        "next_tokens": sum((a.argmax(-1) == b.argmax(-1)).sum().item() for a, b in pairs)
        / sum(len(one) for one in read),
        "perplexity": {"ours": perplexity(expected, read), "llama.cpp": perplexity(found, read)},
        "texts": len(ids),
        "tokens": sum(len(one) for one in read),
        "longest": max(len(one) for one in read),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    split = patterns()
    print("patterns", split, flush=True)
    results: dict[str, dict[str, Any]] = {name: {} for name in MODELS}
    for name, load in MODELS.items():
        model = load()
        model.merge_lora()
        known = ours(model)
        for kind in TYPES:
            with tempfile.TemporaryDirectory() as folder:
                results[name][kind] = compared(model, kind, Path(folder), *known)
            print(name, kind, results[name][kind], flush=True)
    environment = describe_environment("cpu", seed=0)
    environment["packages"] |= {name: version(name) for name in ("gguf", "llama-cpp-python")}
    broken = [
        f"{name} in {kind}"
        for name, kinds in results.items()
        for kind, one in kinds.items()
        if one["equal_texts"] < 1 or (kind == "f32" and one["logits"] > FLOAT32)
    ]
    broken += [f"the pattern {name}" for name, share in split.items() if share < 1]
    bounds = {"equal_texts": 1, "logits in f32": FLOAT32}
    write_result(
        chosen.out,
        {
            "environment": environment,
            "bounds": bounds,
            "broken": broken,
            "patterns": split,
            "models": results,
        },
    )
    if broken:
        raise SystemExit(f"bounds are broken by: {', '.join(broken)}")


if __name__ == "__main__":
    main()
