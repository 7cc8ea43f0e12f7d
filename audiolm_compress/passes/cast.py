"""Store and compute parts of the model in 16 bit.

Encoders are often left in float32 by habit: Whisper's was the largest item of a published recipe whose
LLM had 4 bit. bfloat16 keeps float32's range, float16 its precision around one. float16 overflows above
65504, so after the cast the calibration clips are encoded once more: a part that gives infinities or
NaN is refused by name instead of being found out by a bad transcript.

Packed weights keep the type that they were quantised in, so the pass stands before those that quantise. That
matters for the LLM, too: the fast 4-bit kernels take bfloat16 and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn

Part = Literal["speech_encoder", "audio_encoder", "connector", "llm"]


@contextmanager
def watch_overflow(model: Salmonn, parts: Sequence[str]) -> Iterator[set[str]]:
    """Collect the names of modules in ``parts`` whose output is not finite while the block runs."""
    found: set[str] = set()

    def look(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.add(name)

        return hook

    leaves = (
        (f"{part}.{name}", module)
        for part in parts
        for name, module in getattr(model, part).named_modules()
        if not any(module.children())
    )
    handles = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class Cast(Pass):
    """Change the dtype of parts of the model."""

    kind: Literal["cast"] = Field("cast", alias="pass")
    parts: tuple[Part, ...] | None = Field(
        None, min_length=1, description="Parts to cast; null for all that exist."
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="Type of their weights.")
    check_clips: int = Field(8, ge=1, description="Calibration clips to look for overflow with.")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Cast the parts and run the check.

        Raises:
            PassError: a part does not exist or has packed layers of another type, there is no calibration
                clip, or an output overflows.
        """
        parts = self._parts(model)
        if not context.calibration:
            raise PassError("cast: no calibration clip to look for overflow with; give calibration data")
        before = model.weight_bytes()
        changed = {part: count for part in parts if (count := model.cast(getattr(torch, self.dtype), [part]))}
        if not changed:
            return PassReport(changed=False, summary=f"all weights of {', '.join(parts)} are {self.dtype}")
        self._check(model, parts, context)
        after = model.weight_bytes()
        saved = sum(before.values()) - sum(after.values())
        return PassReport(
            changed=True,
            summary=f"cast {', '.join(changed)} to {self.dtype}",
            figures={"parameters_cast": sum(changed.values()), "saved_bytes": saved},
        )

    def predict(self, sketch: Sketch) -> None:
        """The parts' weights change their type."""
        if sketch.model.cast(getattr(torch, self.dtype), self._parts(sketch.model)):
            sketch.run_clips(min(self.check_clips, sketch.calibration_clips))

    def _parts(self, model: Salmonn) -> list[str]:
        """The parts to cast.

        Raises:
            PassError: a part is missing, or its packed layers would be left in another type.
        """
        absent = [part for part in self.parts or () if part not in model.parts()]
        if absent:
            raise PassError(f"cast: the model has no {', '.join(absent)}; it has {', '.join(model.parts())}")
        parts = [part for part in model.parts() if self.parts is None or part in self.parts]
        stuck = [
            f"{count} packed layers of {part} are {str(dtype).removeprefix('torch.')}"
            for part in parts
            for dtype, count in model.packed_dtypes(part).items()
            if dtype != getattr(torch, self.dtype)
        ]
        if stuck:
            raise PassError(
                f"cast: {', '.join(stuck)} and cannot be cast; put cast before the pass that quantises them"
            )
        return parts

    def _check(self, model: Salmonn, parts: Sequence[str], context: Context) -> None:
        clips = context.calibration[: self.check_clips]
        context.progress.start("cast: looking for overflow", len(clips))
        with watch_overflow(model, parts) as overflown, torch.inference_mode():
            for example in clips:
                model.logits([example])
                context.progress.advance()
        if overflown:
            shown = ", ".join(sorted(overflown)[:5])
            if self.dtype != "float16":  # the others have float32's range
                raise PassError(
                    f"cast: {len(overflown)} modules ({shown}) give infinities or NaN, in {self.dtype} as in "
                    "any type of its range; the model is broken already: remove the passes before it, or "
                    "check the baseline's weights"
                )
            raise PassError(
                f"cast: float16 overflows in {len(overflown)} modules ({shown}); use bfloat16 for this part"
            )
