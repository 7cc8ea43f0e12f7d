"""Whisper encodes the clip's own length, not 30 s.

Whisper was trained on clips padded to 30 s, and every SALMONN pads all of them: most of the work before
the first token of a 10 s clip, and 88 audio tokens for the LLM to read. With a bucket of b seconds a clip of
n seconds is padded to

    max(1, n) rounded up to a multiple of b, then to a whole window of the connector, at most 30 s

and positions, windows and masks follow. BEATs hears the same length, with its padding masked. Clips that are
padded to the same length are encoded together and no others, so that what is heard of a clip never depends on
its neighbours.

When it helps: always for the time to the first token, the more the shorter the clips; fewer audio tokens
also mean a shorter cache. What it costs: a model trained on 30 s meets two things that are new to it.
Whisper's states near the end of a clip are not quite those that silence behind it gives. And an LLM that
always read 88 tokens, most of them of silence, now reads fewer. What hurts it is less that they are gone than
that the words behind them move: with ``keep_positions`` instruction and answer stay at the positions that
they had in training, and those between are empty. What remains, training on clips of their own length wins
back; the loss on calibration clips before and after says how much it is. No weight changes; small buckets
waste less padding, large ones make fewer shapes for kernels that are compiled per shape.
"""

from __future__ import annotations

from statistics import fmean
from typing import Literal

from pydantic import Field, field_validator

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.data.loading import in_turn
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.speech import FRAME_SAMPLES, LONGEST_FRAMES


class UnpadAudio(Pass):
    """Encode clips at their own length, rounded up."""

    kind: Literal["unpad_audio"] = Field("unpad_audio", alias="pass")
    bucket_seconds: float = Field(
        5.0, ge=0.1, le=30, description="Clips are padded to a multiple of this; itself a multiple of 20 ms."
    )
    keep_positions: bool = Field(
        True,
        description="The text behind the audio keeps the position that 30 s of audio tokens gave it; false: "
        "it follows the audio at once, for a model that was trained so.",
    )
    loss_clips: int = Field(
        32, ge=1, description="Calibration clips, of each task in turn, whose loss is taken before and after."
    )

    @field_validator("bucket_seconds")
    @classmethod
    def _whole_frames(cls, seconds: float) -> float:
        frames = seconds * SAMPLE_RATE / FRAME_SAMPLES
        if abs(frames - round(frames)) > 1e-6:
            below, above = int(frames) / 50, (int(frames) + 1) / 50
            raise ValueError(f"must be a multiple of 0.02 (a frame of Whisper); take {below} or {above}")
        return seconds

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Set the bucket; a model that has it already is left as it is.

        Raises:
            PassError: there are no calibration clips.
        """
        if (model.bucket_seconds, model.audio_positions) == (self.bucket_seconds, self._positions(model)):
            return PassReport(
                changed=False, summary=f"clips are padded to multiples of {self.bucket_seconds:g} s already"
            )
        clips = [context.calibration[index] for index in in_turn(context.calibration, self.loss_clips)]
        lengths = [len(example.waveform) for example in context.calibration]
        figures: dict[str, float] = {}
        context.progress.start("unpad_audio: loss before and after", 2)
        for when in ("before", "after"):
            figures[f"loss_{when}"] = calibration_loss(model, clips)
            figures[f"tokens_10s_{when}"] = model.token_count(10 * SAMPLE_RATE)
            figures[f"mean_tokens_{when}"] = fmean(model.token_count(length) for length in lengths)
            self._change(model)
            context.progress.advance()
        return PassReport(
            changed=True,
            summary=(
                f"clips padded to multiples of {self.bucket_seconds:g} s; audio tokens of 10 s "
                f"{figures['tokens_10s_before']} -> {figures['tokens_10s_after']}; "
                f"calibration loss {figures['loss_before']:.4f} -> {figures['loss_after']:.4f}"
            ),
            figures={**figures, "loss_clips": len(clips), "saved_bytes": 0},
        )

    def predict(self, sketch: Sketch) -> None:
        """The clips become shorter."""
        clips = min(self.loss_clips, sketch.calibration_clips)
        sketch.run_clips(clips)
        self._change(sketch.model)
        sketch.run_clips(clips)

    def _change(self, model: Salmonn) -> None:
        model.audio_positions = self._positions(model)
        model.bucket_seconds = self.bucket_seconds

    def _positions(self, model: Salmonn) -> int | None:
        """``Salmonn.audio_positions`` as this pass wants it."""
        if not self.keep_positions:
            return None
        return model.audio_positions or model.connector.config.tokens(LONGEST_FRAMES)
