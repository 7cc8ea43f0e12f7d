"""Whether stored tensors are those that a model needs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from audiolm_compress.errors import BaselineError


def check_fit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: object) -> None:
    """Compare names and shapes.

    Raises:
        BaselineError: names every tensor of ``origin`` that is missing, unknown or wrongly shaped.
    """
    problems = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unknown {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}"
        for name, tensor in found.items()
        if name in expected and expected[name].shape != tensor.shape
    ]
    if problems:
        raise BaselineError(f"the tensors of {origin} do not fit its config:\n  " + "\n  ".join(problems))
