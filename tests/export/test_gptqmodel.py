"""GPTQModel opens exported LLMs and computes what we compute; ``.ci/gptqmodel`` installs it and runs this.

benchmarks/gptqmodel_round_trip.py does the same with a trained model, and perplexity.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from audiolm_compress.export import export
from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.kernels import Dequantize
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

pytestmark = [
    pytest.mark.gptqmodel,
    pytest.mark.skipif(find_spec("gptqmodel") is None, reason="GPTQModel is not installed (.ci/gptqmodel)"),
    pytest.mark.filterwarnings("ignore"),  # theirs
]
Rounded = Callable[..., Salmonn]
OPENED: list[Any] = []  # alive: it keeps what it finds in `dynamic` by that dictionary's address
SCHEMES = [
    *[[Scheme(bits, 32, symmetric)] for bits in (2, 3, 4, 8) for symmetric in (True, False)],
    *[[Scheme(4, group)] for group in (-1, 16)],
    [Scheme(4, 32), Scheme(8, -1), Scheme(3, 16, symmetric=False), Scheme(2, 16)],
]


def opened_by_gptqmodel(folder: Path, attention: str) -> nn.Module:
    from gptqmodel import BACKEND, GPTQModel

    OPENED.append(
        GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, attn_implementation=attention)
    )
    return OPENED[-1].model.eval()


def in_float32(llm: nn.Module, packed: Container[str]) -> nn.Module:
    """With plain weights: products of codes and scales, rounded to bfloat16 where they are not ``packed``."""
    copied = copy.deepcopy(llm).float()
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, QuantizedLinear):
            weight = layer.dense() if name in packed else llm.get_submodule(name).dense().float()
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
            plain.weight = nn.Parameter(weight, requires_grad=False)
            copied.set_submodule(name, plain)
    return copied


@pytest.mark.parametrize("variant", ["llama", "gemma"])
@pytest.mark.parametrize("schemes", SCHEMES, ids=str)
@torch.compiler.set_stance("force_eager")  # compiling its kernels takes minutes
@torch.no_grad()
def test_gptqmodel_reproduces_our_logits(
    rounded: Rounded, tmp_path: Path, variant: str, schemes: list[Scheme]
) -> None:
    """Every weight is the same bit for bit; logits differ by float32's rounding where both compute in it.

    In the checkpoint's bfloat16 these random models differ by far more and neither is wrong: with eager
    attention there and SDPA here by .67 of 10.7, which is how far each is from float32.
    """
    folder = store.save(rounded(variant, *schemes), tmp_path / "model")
    done = export(folder, "gptq", tmp_path / "gptq")
    model = load_model(folder)
    llm = model.causal_lm.eval()
    opened = opened_by_gptqmodel(done.path, llm.config._attn_implementation)
    layers = {name: one for name, one in llm.named_modules() if isinstance(one, QuantizedLinear)}
    theirs = {name: one for name, one in opened.named_modules() if hasattr(one, "dequantize_weight")}
    assert theirs and theirs.keys() <= layers.keys()
    for name, layer in layers.items():
        if name in theirs:  # the int4 kernel rounds zero points to bfloat16, what is stored does not
            stored = Dequantize(layer.shape).dense(layer.stored())
            assert torch.equal(theirs[name].dequantize_weight().T, stored), name
        else:
            assert torch.equal(opened.get_submodule(name).weight, layer.dense()), name
    ids = torch.randint(0, llm.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(0))
    reference = in_float32(llm, theirs)
    expected = reference(input_ids=ids).logits
    found = opened.float()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
