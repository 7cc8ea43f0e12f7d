"""The report of GPTQ: a row a layer, totals, and what did not come out as asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from torch import nn

from audiolm_compress.passes.base import PassReport
from audiolm_compress.quantization.kernel_choice import why_sixteen_bit
from audiolm_compress.quantization.layerwise import Layer
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.quantization.modules import kernel_report, prepare_modules


def _ineffective_activations(model: nn.Module) -> list[str]:
    """A note on the layers whose kernel does not round inputs to 8 bit though it is wanted."""
    asked = [m for m in model.modules() if isinstance(m, QuantizedLinear) and m.activations == 8]
    reasons = Counter(reason for layer in asked if (reason := why_sixteen_bit(layer.kernel)))
    if not reasons:
        return []
    counts = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
    return [f"prefill_activations: 8 has no effect in {reasons.total()} of {len(asked)} layers: {counts}"]


def gptq_report(
    model: nn.Module, layers: Sequence[Layer], before: int, after: int, left: Sequence[str]
) -> PassReport:
    """Rows, totals and everything that was not as asked; ``left`` says so of what was not quantised."""
    notes = [*prepare_modules(model), *_ineffective_activations(model)]
    notes += [
        f"{layer.name}: never called in calibration, so plainly rounded" for layer in layers if not layer.rows
    ]
    notes += [
        f"{layer.name}: only {layer.rows} calibration positions for {layer.inputs} inputs"
        for layer in layers
        if 0 < layer.rows < layer.inputs
    ]
    notes += [
        f"{layer.name}: all its calibration inputs are zero, so plainly rounded"
        for layer in layers
        if layer.rows and layer.method == "rounding"
    ]
    raised = sorted({layer.damping for layer in layers if layer.method == "gptq"})[1:]
    if raised:
        names = [layer.name for layer in layers if layer.damping in raised]
        notes.append(f"damping raised to at most {raised[-1]} in {len(names)} layers: {', '.join(names)}")
    notes += left
    learnt = [layer for layer in layers if layer.rows]
    mean = 1 / max(1, len(learnt))
    error, rounding = (
        mean * sum(layer.error for layer in learnt),
        mean * sum(layer.rounding_error for layer in learnt),
    )
    return PassReport(
        changed=True,
        summary=f"{len(layers)} linear layers quantised; output error {error:.2%}, rounding's {rounding:.2%}",
        figures={
            "layers": len(layers),
            "error": error,
            "rounding_error": rounding,
            "bytes_before": before,
            "bytes_after": after,
            "saved_bytes": before - after,
            **{f"layers by {name}": count for name, count in kernel_report(model).items()},
        },
        modules=[asdict(layer) | {"method": layer.method} for layer in layers],
        notes=notes,
    )
