"""The README of an export: what it is, how it is opened, what was changed, whose licences hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Form(NamedTuple):
    """A form of export.

    Attributes:
        title: one line.
        opened: Python that opens the folder.
        metadata: lines that the Hugging Face Hub reads.
        limits: what the form does not hold.
        lora: whether it has a place for LoRA factors; else they are folded into the weights.
    """

    title: str
    opened: str
    metadata: tuple[str, ...] = (
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- audiolm-compress",
    )
    limits: str = (
        "The LLM of an audio language model answers about audio only with the embeddings that encoders and "
        "connector give; its prompts, end symbol and decode settings stand in the folder it came from."
    )
    lora: bool = False


def card(form: Form, name: str, source: str, notes: Sequence[str]) -> str:
    """Markdown with the metadata that the Hugging Face Hub reads.

    Args:
        form: what was written.
        name: of the form.
        source: where the model came from.
        notes: of the export, a line each.
    """
    metadata = [*form.metadata, *(["- gptq"] if name == "gptq" else [])]
    lines = [
        "---",
        *metadata,
        "---",
        "",
        f"# {form.title}",
        "",
        f"Exported by audiolm-compress (`--to {name}`) from `{source}`.",
        "",
        "```python",
        form.opened.rstrip("\n"),
        "```",
        "",
        "## What was done",
        "",
        *(f"- {note}" for note in notes),
        "",
        "## What it is not",
        "",
        form.limits,
        "",
        "## Licences",
        "",
        "The weights stay under the licences of the checkpoints that they were made from (the LLM's, "
        "Whisper's, BEATs', the trained connector's), which this file cannot know: see the source's model "
        "card, and add `license` to the lines at the top before you publish.",
    ]
    return "\n".join(lines) + "\n"
