"""What GPTQModel cannot do as engine is refused; tests/quantization/test_gptqmodel.py tries what it can."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from pydantic import ValidationError

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[[str], Salmonn]
INSTALLED = find_spec("gptqmodel") is not None


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"progressive": True}, "no progressive scales"), ({"damping": 1}, "damping below 1")],
)
def test_settings_that_gptqmodel_does_not_have(settings: dict[str, float], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Gptq(engine="gptqmodel", group_size=32, **settings)


@pytest.mark.skipif(INSTALLED, reason="GPTQModel is installed")
def test_without_gptqmodel_nothing_is_begun(small_model: Loader, context: Context) -> None:
    model = small_model("llama")
    before = model.state_dict()
    with pytest.raises(PassError, match=r"gptqmodel.*not found; pip install 'audiolm-compress\[gptqmodel\]'"):
        Gptq(engine="gptqmodel", group_size=32).apply(model, context)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
