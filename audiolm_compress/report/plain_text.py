"""What a terminal shows, as text without colours."""

from __future__ import annotations

from rich.console import Console, RenderableType


def plain_text(shown: RenderableType, width: int) -> str:
    """``shown`` on a terminal of so many columns."""
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()
