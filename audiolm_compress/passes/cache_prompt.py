"""Read the constant beginning of the prompt once and keep its keys and values.

A prompt is bos and some text, then the audio, then more text. Under causal attention

    k_i, v_i = f(x_1, ..., x_i)

so what stands before the audio has the same keys and values for every clip of a task. They are computed when
the task is first met and every later prefill starts behind them. Answers change by no more than the rounding
of matrix products over fewer rows.

When it helps: with a long system text before the audio, whose share of the prefill it saves. With the usual
``USER: <Speech>`` that is a few tokens of some hundred, and the report says so. What it costs: the kept keys
and values, and reading the weights once more when a task is first met. It works in this package's runtime
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.runtime.architecture import why_not
from audiolm_compress.runtime.decoder import Decoder
from audiolm_compress.runtime.prefixes import KEPT, Prefixes
from audiolm_compress.salmonn.model import Salmonn

_SECONDS = 10  # of the clip that shares are given for


class CachePrompt(Pass):
    """Compute what stands before the audio once per task and reuse it."""

    kind: Literal["cache_prompt"] = Field("cache_prompt", alias="pass")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Switch the cache on and tell what it holds for each task.

        Raises:
            PassError: this package's runtime does not know the LLM, or all prompts begin with their audio.
        """
        _check(model)
        if model.prompt_cache:
            return PassReport(changed=False, summary="what stands before the audio is kept already")
        rows, kept = _rows(model)
        model.prompt_cache = True
        longest = max(row["prefix_tokens"] for row in rows)
        share = max(row["share_of_prefill"] for row in rows)
        notes = ["what stands before the audio is the same for tasks of equal beginning, and kept once"]
        asking = _asking(model)
        if asking:
            notes.append(
                f"the question of {', '.join(asking)} stands before the audio: each new question is read by "
                f"itself, which saves nothing; the {KEPT} latest beginnings are kept"
            )
        return PassReport(
            changed=True,
            summary=f"up to {longest} tokens before the audio are read once a task: {share:.1%} of the "
            f"prefill of a {_SECONDS} s clip",
            figures={"prefix_tokens": longest, "cached_bytes": kept, "saved_bytes": 0},
            modules=rows,
            notes=tuple(notes),
        )

    def predict(self, sketch: Sketch) -> None:
        """No weight changes."""
        _check(sketch.model)
        sketch.model.prompt_cache = True


def _check(model: Salmonn) -> None:
    """Refuse a model for which there is nothing to keep, or nothing that would use it."""
    reason = why_not(model.causal_lm)
    if reason:
        raise PassError(
            f"cache_prompt: the cache is part of this package's runtime, which cannot run this LLM: "
            f"{reason}; leave the pass out"
        )
    # With a bos something always stands before the audio.
    if model.tokenizer.bos_token_id is None and not any(model.prompts.around(t)[0] for t in _tasks(model)):
        raise PassError(
            "cache_prompt: the audio is the first thing in every prompt, so there is nothing to keep; "
            "leave the pass out"
        )


def _tasks(model: Salmonn) -> list[str]:
    return list(dict.fromkeys([*model.prompts.test, *model.prompts.train]))


def _asking(model: Salmonn) -> list[str]:
    """The tasks whose question stands before the audio."""
    prompts = model.prompts
    return [t for t in _tasks(model) if prompts.around(t, None, "?")[0] != prompts.around(t, None, "")[0]]


@torch.inference_mode()
def _rows(model: Salmonn) -> tuple[list[Mapping[str, Any]], int]:
    """Of each task: tokens before the audio and in all for a clip of 10 s, and what keeping them takes.

    Also the bytes of all together: equal beginnings are kept once.
    """
    audio = model.encode_audio([torch.zeros(_SECONDS * SAMPLE_RATE, device=model.device)])
    beginnings = Prefixes(Decoder(model.causal_lm))  # of its own, so that no later pass finds it in memory
    rows: list[Mapping[str, Any]] = []
    kept: dict[tuple[int, ...], int] = {(): 0}
    for task in _tasks(model):
        inputs = model.wrap(audio, [model.prompts.around(task)], padding_side="left")
        assert inputs.prefixes is not None
        (prefix,) = inputs.prefixes
        if prefix not in kept:
            kept[prefix] = beginnings.of(prefix).nbytes
        rows.append(
            {
                "task": task,
                "prefix_tokens": len(prefix),
                "prompt_tokens": inputs.mask.shape[1],
                "share_of_prefill": round(len(prefix) / inputs.mask.shape[1], 4),
                "cached_bytes": kept[prefix],
            }
        )
    return rows, sum(kept.values())
