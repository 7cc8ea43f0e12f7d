"""Who solves GPTQ's layers: this package or GPTQModel; what the latter cannot do is refused beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Literal

from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.quantization.gptqmodel import require_gptqmodel, solve_gptqmodel
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.layerwise import Solver, solve

Engine = Literal["audiolm_compress", "gptqmodel"]
SOLVERS: Mapping[Engine, Solver] = {"audiolm_compress": solve, "gptqmodel": solve_gptqmodel}


def require_engine(
    engine: Engine, targets: Mapping[str, Mapping[str, nn.Linear]], schemes: Mapping[str, Scheme]
) -> None:
    """Refuse before anything is computed what the engine cannot do.

    Args:
        engine: the one chosen.
        targets: part -> full name -> layer.
        schemes: full name -> scheme, of the layers that are quantised.

    Raises:
        PassError: GPTQModel is not installed, or a layer's groups do not divide its inputs.
    """
    if engine != "gptqmodel":
        return
    require_gptqmodel()
    linears = {name: linear for part in targets.values() for name, linear in part.items()}
    for name, scheme in schemes.items():
        inputs = linears[name].in_features
        if inputs % scheme.width(inputs):
            raise PassError(
                f"gptq: engine: gptqmodel needs groups that divide the inputs; {name} has {inputs} and "
                f"groups of {scheme.group_size}; give it another group_size by an override"
            )


def engine_notes(engine: Engine, bits: int | str) -> list[str]:
    """What another engine does otherwise."""
    if engine != "gptqmodel":
        return []
    notes = [
        f"codes and scales by the solver of GPTQModel {version('gptqmodel')}, on this package's calibration "
        "with audio: GPTQModel.quantize itself reads token ids alone"
    ]
    if bits == "auto":
        notes.append("bits: auto: sensitivities were measured with this package's own solver")
    return notes
