"""The format of each layer that GPTQ quantises: the pass's own, or that of an exception by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from audiolm_compress.passes.targets import matches
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.settings import Settings

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[-1, 16, 32, 64, 128]


class Override(Settings):
    """Another treatment for the layers whose name matches."""

    match: str = Field(description="Pattern of full names with * and ?, such as ``*.mlp.down_proj``.")
    skip: bool = Field(False, description="Leave these layers as they are.")
    bits: Bits | None = Field(None, description="Bits of these layers.")
    group_size: GroupSize | None = Field(None, description="Group size of these layers.")
    symmetric: bool | None = Field(None, description="Symmetry of these layers.")

    @model_validator(mode="after")
    def _does_one_thing(self) -> Override:
        names = ("bits", "group_size", "symmetric")
        changes = [name for name in names if getattr(self, name) is not None]
        if self.skip and changes:
            raise ValueError(f"an override cannot skip layers and set {', '.join(changes)}; give one of both")
        if not self.skip and not changes:
            raise ValueError("an override must change something; give skip, bits, group_size or symmetric")
        return self


def override_of(name: str, overrides: Sequence[Override]) -> Override | None:
    """The one that counts for the layer of that full name: the last that matches."""
    return next((override for override in reversed(overrides) if matches(name, override.match)), None)


def scheme_of(
    name: str, overrides: Sequence[Override], usual: tuple[int, int, bool], progressive: bool
) -> Scheme | None:
    """The scheme of the layer of that full name, None to skip it.

    Args:
        name: full name.
        overrides: see ``override_of``.
        usual: bits, group size and symmetry where no override says otherwise.
        progressive: see ``stored_scheme``.
    """
    own = override_of(name, overrides)
    if own is None:
        return stored_scheme(*usual, progressive)
    if own.skip:
        return None
    bits, group_size, symmetric = usual
    return stored_scheme(
        bits if own.bits is None else own.bits,
        group_size if own.group_size is None else own.group_size,
        symmetric if own.symmetric is None else own.symmetric,
        progressive,
    )


def stored_scheme(bits: int, group_size: int, symmetric: bool, progressive: bool) -> Scheme:
    """The scheme, progressive where it is asked for and possible."""
    possible = symmetric and bits <= 4 and group_size > 0
    return Scheme(bits, group_size, symmetric, progressive and possible)
