"""GPTQModel's GPTQ in the place of ours, on the same calibration inputs.

GPTQModel (github.com/ModelCloud/GPTQModel) is what Transformers and Optimum use since AutoGPTQ ended. Its
``GPTQModel.quantize`` reads token ids, so it cannot hear: audio reaches the LLM as embeddings. Its solver for
one layer, ``gptqmodel.quantization.GPTQ``, sees inputs through E[x x^T] alone, and that is what our
calibration collects behind the connector. It is given that, and its codes, scales and zero points become
ours, number by number.

What differs from `quantization/gptq.py` is thereby the solver: grids of a group's extremes, no search for
better ones, no second sweep; groups in the order of their mean squares and inputs within a group in that of
their own (``act_group_aware``), for which no permutation need be stored.
"""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.quantization.gptq import (
    Hessian,
    Quantized,
    quantize_rounding,
    quantized_as,
    require_finite,
)
from audiolm_compress.quantization.grids import Grid, Scheme

INSTALL = "pip install 'audiolm-compress[gptqmodel]'"


def require_gptqmodel() -> None:
    """Refuse unless GPTQModel is there; nothing of it is imported.

    Raises:
        PassError: says how to get it.
    """
    missing = [name for name in ("gptqmodel", "optimum", "torchvision") if find_spec(name) is None]
    if missing:
        raise PassError(
            f"gptq: engine: gptqmodel needs {', '.join(missing)}, not found; {INSTALL}, and the torchvision "
            "that belongs to your torch, from where that came"
        )


def solve_gptqmodel(
    weight: Tensor, hessian: Hessian, scheme: Scheme, act_order: bool, damping: float
) -> Quantized:
    """Quantise ``weight`` as GPTQModel does.

    Args:
        weight: any floating dtype, shape [out, in].
        hessian: of the inputs.
        scheme: not progressive, with groups that divide the inputs.
        act_order: round the inputs of largest mean square first, within groups and group by group.
        damping: share of the mean diagonal of H added to its diagonal, below 1.

    Raises:
        PassError: GPTQModel is missing, H holds NaN or infinite values, or it is not positive with any
            damping.
    """
    require_finite(hessian.matrix)
    if not hessian.matrix.diagonal().any():  # no input was ever non-zero: nothing to learn from
        return quantize_rounding(weight, hessian.matrix, scheme, dtype=weight.dtype)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        found, scales, zeros, damped = _solved(weight.float(), hessian, scheme, act_order, damping)
    if damped >= 1:
        raise PassError("gptq: engine: gptqmodel finds no damping below 1 with which H is positive")
    width = scheme.width(weight.shape[1])
    wide = scales.repeat_interleave(width, 1), zeros.repeat_interleave(width, 1)
    codes = (found / wide[0] + wide[1]).round_().clamp_(0, scheme.top).to(torch.uint8)
    # Theirs are chosen for scales in float32; stored ones have the weights' dtype, as in their checkpoints.
    grid = Grid(scales.T.to(weight.dtype).float().contiguous(), zeros.T.contiguous())
    return quantized_as(weight.float(), hessian.matrix, codes, grid, scheme, damped, weight.dtype)


def _solved(
    weight: Tensor, hessian: Hessian, scheme: Scheme, act_order: bool, damping: float
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Values [out, in] on their grid, scales and zero points [out, groups], and the damping it took."""
    engine: Any = _engine()
    config = engine.QuantizeConfig(
        bits=scheme.bits,
        group_size=scheme.group_size,
        sym=scheme.symmetric,
        desc_act=False,
        act_group_aware=act_order and scheme.group_size != -1,
        damp_percent=damping,
        fallback=None,
        offload_to_disk=False,
    )
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    task = engine.GPTQ(linear, config)
    task.quantizer.configure(perchannel=True)
    task.H, task.nsamples = 2 * hessian.matrix, hessian.rows  # as its own `add_batch` leaves them
    found, scales, zeros, _, _, _, damped, _ = task.quantize()
    # Made in inference mode, which forbids changes in place outside it.
    return found.clone(), scales.clone(), zeros.clone(), float(damped)


def _engine() -> Any:
    require_gptqmodel()
    try:
        from gptqmodel import quantization
    except Exception as error:  # whatever a package that does not fit its neighbours raises
        raise PassError(
            f"gptq: engine: gptqmodel cannot be imported ({type(error).__name__}: {error}); {INSTALL}"
        ) from error
    return quantization
