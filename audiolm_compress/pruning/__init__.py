"""Narrower layers: what belongs together, what it is worth, and making good what is lost."""

from __future__ import annotations
