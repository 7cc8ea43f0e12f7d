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
from audiolm_compress.runtime.engine import engine_of
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
        reason = why_not(model.causal_lm)
        if reason:
            raise PassError(
                f"cache_prompt: the cache is part of this package's runtime, which cannot run this LLM: "
                f"{reason}; leave the pass out"
            )
        if model.prompt_cache:
            return PassReport(changed=False, summary="what stands before the audio is kept already")
        rows = _rows(model)
        if not any(row["prefix_tokens"] for row in rows):
            raise PassError(
                "cache_prompt: the audio is the first thing in every prompt, so there is nothing to keep; "
                "leave the pass out"
            )
        model.prompt_cache = True
        longest = max(row["prefix_tokens"] for row in rows)
        share = max(row["share_of_prefill"] for row in rows)
        kept = {row["prefix_tokens"]: row["cached_bytes"] for row in rows if row["prefix_tokens"]}
        return PassReport(
            changed=True,
            summary=f"up to {longest} tokens before the audio are read once a task: {share:.1%} of the "
            f"prefill of a {_SECONDS} s clip",
            figures={"prefix_tokens": longest, "cached_bytes": sum(kept.values()), "saved_bytes": 0},
            modules=rows,
            notes=("what stands before the audio is the same for tasks of equal beginning, and kept once",),
        )

    def predict(self, sketch: Sketch) -> None:
        """No weight changes."""
        sketch.model.prompt_cache = True


@torch.inference_mode()
def _rows(model: Salmonn) -> list[Mapping[str, Any]]:
    """Of each task: tokens before the audio and in all for a clip of 10 s, and what keeping them takes."""
    audio = model.encode_audio([torch.zeros(_SECONDS * SAMPLE_RATE, device=model.device)])
    rows: list[Mapping[str, Any]] = []
    for task in dict.fromkeys([*model.prompts.test, *model.prompts.train]):
        inputs = model.wrap(audio, [model.prompts.around(task)], padding_side="left")
        assert inputs.prefixes is not None
        (prefix,) = inputs.prefixes
        nbytes = engine_of(model.causal_lm).prefixes.of(prefix).nbytes if prefix else 0
        share = len(prefix) / inputs.mask.shape[1]
        rows.append(
            {
                "task": task,
                "prefix_tokens": len(prefix),
                "prompt_tokens": inputs.mask.shape[1],
                "share_of_prefill": round(share, 4),
                "cached_bytes": nbytes,
            }
        )
    return rows
