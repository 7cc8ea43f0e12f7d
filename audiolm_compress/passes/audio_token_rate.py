"""Fewer audio tokens: wider windows of the Q-Former, or windows further apart.

The Q-Former reads a window of encoder frames and gives q tokens for it. Of n frames with windows of w frames
every s frames come

    q * (floor((n - w) / s) + 1)

tokens, with w and s in frames of 20 ms, rounded half to even as upstream's are. A window of 1 s in the place
of a third of one leaves 30 of 88 tokens of a 30 s clip. What stands behind the last window is not heard:
(n - w) mod s frames, a fraction of a second for short strides, but 14 s of 30 s with windows of 16 s side by
side. More than 1 s is refused.

When it helps: prefill and cache follow the length of the prompt, of which audio is most. What it costs: no
weight changes, but the queries were trained on windows of another width, so accuracy falls until the
connector has been trained again; the loss on calibration clips before and after says how much. Captions bear
longer windows, speech recognition hardly does: a window of 1 s holds about three words and gives q tokens.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.connector import ConnectorConfig, window_frames
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.speech import FRAME_SAMPLES, LONGEST_FRAMES

_FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE
_MOST_UNHEARD = 1.0  # s of 30 s: about three words


def unheard_seconds(window: int, stride: int) -> float:
    """What stands behind the last whole window of a 30 s clip, in s; ``window`` and ``stride`` in frames."""
    return (LONGEST_FRAMES - window) % stride * _FRAME_SECONDS


class AudioTokenRate(Pass):
    """Change width and distance of the connector's windows."""

    kind: Literal["audio_token_rate"] = Field("audio_token_rate", alias="pass")
    window_seconds: float | None = Field(
        None, gt=0, description="Audio that one window covers, in s; unset: as it is."
    )
    stride_seconds: float | None = Field(
        None, gt=0, description="Distance of windows in s, at most their width; unset: as it is."
    )
    loss_clips: int = Field(
        32, ge=1, description="Calibration clips, of each task in turn, whose loss is taken before and after."
    )

    @model_validator(mode="after")
    def _changes_something(self) -> AudioTokenRate:
        if self.window_seconds is None and self.stride_seconds is None:
            raise ValueError("neither window_seconds nor stride_seconds is set; set one")
        return self

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Set the windows; no weight changes.

        Raises:
            PassError: the connector has one window over everything, the windows would leave gaps, leave the
                end of 30 s unheard or give no token, or there are no calibration clips.
        """
        window, stride = self._frames(model.connector.config)
        if (window, stride) == (model.connector.config.window, model.connector.config.stride):
            return PassReport(
                changed=False, summary=f"windows of {window} frames every {stride} are what the model has"
            )
        clips = [context.calibration[index] for index in in_turn(context.calibration, self.loss_clips)]
        figures: dict[str, float] = {"unheard_seconds_30s": unheard_seconds(window, stride)}
        context.progress.start("audio_token_rate: loss before and after", 2)
        for when in ("before", "after"):
            figures[f"loss_{when}"] = calibration_loss(model, clips)
            for seconds in (10, 30):
                figures[f"tokens_{seconds}s_{when}"] = model.token_count(seconds * SAMPLE_RATE)
            model.connector.set_windows(window, stride)
            context.progress.advance()
        return PassReport(
            changed=True,
            summary=(
                f"windows of {window * _FRAME_SECONDS:.2f} s every {stride * _FRAME_SECONDS:.2f} s; audio "
                f"tokens of 30 s {figures['tokens_30s_before']} -> {figures['tokens_30s_after']}; "
                f"calibration loss {figures['loss_before']:.4f} -> {figures['loss_after']:.4f}"
            ),
            figures={**figures, "loss_clips": len(clips), "saved_bytes": 0},
        )

    def predict(self, sketch: Sketch) -> None:
        """Fewer windows."""
        connector, clips = sketch.model.connector, min(self.loss_clips, sketch.calibration_clips)
        window, stride = self._frames(connector.config)
        if (window, stride) != (connector.config.window, connector.config.stride):
            sketch.run_clips(clips)
            connector.set_windows(window, stride)
            sketch.run_clips(clips)

    def _frames(self, config: ConnectorConfig) -> tuple[int, int]:
        """Window and stride in frames.

        Raises:
            PassError: impossible for a connector of this ``config``.
        """
        if config.window == 0:
            raise PassError(
                "audio_token_rate: this connector reads the whole clip in one window, whatever its length, "
                f"and gives {config.queries} tokens; it has no rate to change, so remove the pass"
            )
        window = config.window if self.window_seconds is None else window_frames(self.window_seconds)
        stride = config.stride if self.stride_seconds is None else window_frames(self.stride_seconds)
        for name, asked, frames in (
            ("window_seconds", self.window_seconds, window),
            ("stride_seconds", self.stride_seconds, stride),
        ):
            if frames == 0:
                raise PassError(
                    f"audio_token_rate: {name}={asked} is less than half a frame of {_FRAME_SECONDS} s; "
                    f"raise it"
                )
        if window > LONGEST_FRAMES:
            raise PassError(
                f"audio_token_rate: window_seconds={self.window_seconds} is longer than the 30 s that are "
                "heard, so no window would fit and no token come out; lower it"
            )
        if stride > window:
            raise PassError(
                f"audio_token_rate: windows of {window} frames every {stride} frames leave "
                f"{stride - window} of them unheard; lower stride_seconds or raise window_seconds"
            )
        if (unheard := unheard_seconds(window, stride)) > _MOST_UNHEARD:
            raise PassError(
                f"audio_token_rate: windows of {window} frames every {stride} frames leave the last "
                f"{unheard:.2f} s of 30 s unheard, and at most {_MOST_UNHEARD:.0f} s may be; lower "
                f"stride_seconds, or let it divide the {LONGEST_FRAMES - window} frames after the first one"
            )
        return window, stride
