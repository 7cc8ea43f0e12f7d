"""Which layers GPTQ quantises: the linear ones of parts, without the head and without small ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.gptq_schemes import Override, override_of
from audiolm_compress.passes.targets import matches
from audiolm_compress.quantization.blocks import target_linears
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.structure import PARTS

FEWEST_OUTPUTS = 16  # smaller layers (gates) have next to no weights and all the say


def gptq_targets(
    model: Salmonn, parts: Sequence[str], overrides: Sequence[Override]
) -> tuple[dict[str, dict[str, nn.Linear]], list[str]]:
    """Part -> full name -> linear layer, in the order of the data; and the names of those that are too small.

    Raises:
        PassError: a part is missing or has no layer left, or an override counts for no layer.
    """
    absent = [part for part in parts if part not in model.parts()]
    if absent:
        raise PassError(f"gptq: the model has no {', '.join(absent)}; it has {', '.join(model.parts())}")
    head = model.causal_lm.get_output_embeddings()
    targets: dict[str, dict[str, nn.Linear]] = {}
    small: list[str] = []
    for part in [part for part in PARTS if part in parts]:
        found = {
            f"{part}.{name}": linear
            for name, linear in target_linears(model.get_submodule(part)).items()
            if linear is not head
        }
        few = [name for name, linear in found.items() if linear.out_features < FEWEST_OUTPUTS]
        targets[part] = {name: linear for name, linear in found.items() if name not in few}
        small += few
        if not targets[part]:
            raise PassError(f"gptq: {part} has no linear layer left to quantise; take it from the parts")
    _require_effect(overrides, [name for part in targets.values() for name in part])
    return targets, small


def _require_effect(overrides: Sequence[Override], names: Sequence[str]) -> None:
    counting = [override_of(name, overrides) for name in names]
    for override in overrides:
        if not any(matches(name, override.match) for name in names):
            raise PassError(
                f"gptq: the override {override.match!r} matches no layer; names look like {names[0]}"
            )
        if not any(override is one for one in counting):
            raise PassError(
                f"gptq: the override {override.match!r} does nothing, as later ones match all its layers; "
                "put it behind them, or leave it out"
            )
