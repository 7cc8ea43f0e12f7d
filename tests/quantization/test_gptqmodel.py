"""GPTQModel as engine, where it is installed: its numbers in our layers; ``.ci/gptqmodel`` runs this."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.gptq import Gptq
from audiolm_compress.passes.gptq_schemes import Override
from audiolm_compress.quantization import QuantizedLinear, Scheme
from audiolm_compress.quantization.gptq import Hessian
from audiolm_compress.quantization.gptqmodel import solve_gptqmodel
from audiolm_compress.quantization.grids import dequantize
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

pytestmark = [
    pytest.mark.gptqmodel,
    pytest.mark.skipif(find_spec("gptqmodel") is None, reason="GPTQModel is not installed (.ci/gptqmodel)"),
    pytest.mark.filterwarnings("ignore"),  # theirs
]


@pytest.fixture
def context(clips: list[Tensor]) -> Context:
    examples = [Example(str(index), clips[index % 2], "asr", "a quick fox", ()) for index in range(8)]
    return Context(examples, torch.Generator().manual_seed(0), lambda: pytest.fail("no teacher is needed"))


def layer_and_inputs() -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(64, 48, bias=False), torch.randn(400, 64) @ torch.randn(64, 64)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(
    "scheme",
    [Scheme(bits, 32, sym) for bits in (2, 3, 4, 8) for sym in (True, False)] + [Scheme(4, -1)],
    ids=str,
)
def test_statistics_give_what_inputs_give_gptqmodel(scheme: Scheme, act_order: bool) -> None:
    """The reference is GPTQModel alone, fed with the inputs themselves by its public ``add_batch``."""
    from gptqmodel.quantization import GPTQ, QuantizeConfig

    linear, inputs = layer_and_inputs()
    hessian = Hessian(64, torch.device("cpu"))
    hessian.add(inputs)
    ours = solve_gptqmodel(linear.weight.detach(), hessian, scheme, act_order, 0.01)
    config = QuantizeConfig(
        bits=scheme.bits,
        group_size=scheme.group_size,
        sym=scheme.symmetric,
        desc_act=False,
        act_group_aware=act_order and scheme.group_size != -1,
        damp_percent=0.01,
        fallback=None,
        offload_to_disk=False,
    )
    task = GPTQ(linear, config)
    task.quantizer.configure(perchannel=True)
    task.add_batch(inputs[None], torch.empty(0))
    theirs, scales, zeros, *_ = task.quantize()
    # Two orders of summing up the statistics may round a few weights to the neighbouring code.
    values = dequantize(ours.codes, ours.grid, scheme)
    assert (values != theirs).float().mean() < 0.02
    torch.testing.assert_close(ours.grid.scales.T, scales, rtol=0.02, atol=0)
    assert torch.equal(ours.grid.zeros.T, zeros) or not scheme.symmetric
    assert ours.error < 1.2 * ours.rounding_error


def test_the_caller_s_statistics_and_weights_stay_as_they_are() -> None:
    linear, inputs = layer_and_inputs()
    hessian = Hessian(64, torch.device("cpu"))
    hessian.add(inputs)
    matrix, weight = hessian.matrix.clone(), linear.weight.detach().clone()
    first = solve_gptqmodel(linear.weight.detach(), hessian, Scheme(4, 32), True, 0.01)
    again = solve_gptqmodel(linear.weight.detach(), hessian, Scheme(4, 32), True, 0.01)
    assert torch.equal(hessian.matrix, matrix) and torch.equal(linear.weight, weight)
    assert torch.equal(first.codes, again.codes)
    first.codes.add_(1)  # no tensor of inference mode


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_model_of_gptqmodel_is_saved_loaded_and_answers(
    small_model: Callable[[str], Salmonn], context: Context, tmp_path: Path, symmetric: bool
) -> None:
    model = small_model("llama")
    model.merge_lora()
    skip = Override(match="llm.model.layers.1.mlp.*", skip=True)
    gptq = Gptq(engine="gptqmodel", group_size=16, symmetric=symmetric, overrides=(skip,))
    report = gptq.apply(model, context)
    assert report.changed
    assert any("GPTQModel" in note and "audio" in note for note in report.notes)
    assert report.figures["error"] < report.figures["rounding_error"]
    layers = [one for one in model.llm.modules() if isinstance(one, QuantizedLinear)]
    assert len(layers) == len(report.modules) > 0
    loaded = load_model(store.save(model, tmp_path / "model"))
    inputs = model.prepare_training(context.calibration[:2])
    with torch.no_grad():
        assert torch.equal(model.score(inputs), loaded.score(inputs))


def test_groups_that_do_not_divide_the_inputs_are_refused(
    small_model: Callable[[str], Salmonn], context: Context
) -> None:
    model = small_model("llama")
    widths = {one.in_features for one in model.llm.modules() if isinstance(one, nn.Linear)}
    assert any(width % 32 for width in widths if width > 32), "no layer that would be refused"
    with pytest.raises(PassError, match="groups that divide the inputs"):
        Gptq(engine="gptqmodel", group_size=32).apply(model, context)
