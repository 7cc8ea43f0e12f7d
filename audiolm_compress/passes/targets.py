"""Which modules of a model a pass is meant for."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Whether a full name fits, with or without the names that a LoRA wrapping adds."""
    plain = name.replace(".base_model.model.", ".", 1).removesuffix(".base_layer")
    return fnmatchcase(name, pattern) or fnmatchcase(plain, pattern)
