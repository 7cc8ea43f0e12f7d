"""Remove BEATs, or put a smaller one in its place, and make good in the connector what can be made good.

The Q-Former's cross-attention reads frames x = [s; a]: Whisper's states and BEATs', each behind its
LayerNorm, a padded with zeros where its stream ends. Each of its keys and values is

    W x + b = W_s s + W_a a + b

**Without BEATs** the columns W_a go. Of all constants c that could stand for W_a a, the mean square error
E |W_a a - c|^2 is least for c = W_a E[a], so

    b' = b + W_a E[a]

with the mean over the frames that windows read on calibration clips, zeros of the padding included. For
values that moves what attention mixes to where it was on average; for keys it adds the same to all logits
of a query, which the softmax does not see.

**With another BEATs**, whose states behind a fresh LayerNorm are a', ridge regression on the same frames is

    M, m = argmin E |M a' + m - a|^2 + r |M|^2        M = C_aa' (C_a'a' + r I)^-1,  m = E[a] - M E[a']

and W_a' = W_a M, b' = b + W_a m: the best ridge fit of every W_a a at once, since it is linear in a. What is
left of the error is reported for each layer as a share of the error of removing BEATs.

When it helps: 90 M parameters and their share of the time to the first token, which grows once Whisper is
un-padded. What it costs: speech recognition hardly needs BEATs, captions of sounds do; the loss on
calibration clips before and after tells how much. Training the connector afterwards wins back part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import BaselineError, PassError
from audiolm_compress.passes.base import Context, Pass, PassReport, Progress
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.passes.part_calibration import evaluating
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.beats import Beats, load_beats
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.settings import ExistingFile

_RIDGE = 1e-3  # of the mean variance: steadies what calibration hardly shows, and shrinks the rest by as much


@dataclass(frozen=True)
class Moments:
    """Mean [n] and covariance [n, n], float64, of the old audio stream followed by the new one."""

    mean: Tensor
    covariance: Tensor


def fit_stream(moments: Moments, old_width: int, ridge: float = _RIDGE) -> tuple[Tensor, Tensor]:
    """M [old, new] and m [old] of the module's docstring; M is empty where there is no new stream."""
    covariance = moments.covariance
    new = covariance[old_width:, old_width:]
    cross = covariance[:old_width, old_width:]
    if not len(new):
        return cross, moments.mean[:old_width]
    damped = new + ridge * new.diagonal().mean() * torch.eye(len(new), dtype=new.dtype)
    mapping = torch.linalg.solve(damped, cross.T).T
    return mapping, moments.mean[:old_width] - mapping @ moments.mean[old_width:]


def relative_residual(weight: Tensor, mapping: Tensor, moments: Moments) -> float:
    """E |W (a - M a' - m)|^2 as a share of E |W (a - E[a])|^2, for the audio columns W [outputs, old]."""
    whole = weight.cpu().double()
    left = torch.cat((whole, -whole @ mapping), dim=1)
    old = moments.covariance[: len(mapping), : len(mapping)]
    error, removed = ((left @ moments.covariance) * left).sum(), ((whole @ old) * whole).sum()
    return float(error / removed.clamp(min=1e-30))


class DropAudioEncoder(Pass):
    """Remove BEATs from the model, or replace it by another one."""

    kind: Literal["drop_audio_encoder"] = Field("drop_audio_encoder", alias="pass")
    replacement: ExistingFile | None = Field(
        None,
        description="Checkpoint (.pt) of a BEATs of any width and depth that takes its place; unset: none.",
    )
    loss_clips: int = Field(
        32, ge=1, description="Calibration clips, of each task in turn, whose loss is taken before and after."
    )

    @torch.no_grad()
    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Take BEATs out, put the other one in and refit the connector; a model without BEATs stays as it is.

        Raises:
            PassError: the connector's keys or values are quantised, the replacement cannot be read or has
                patches of another size, the model has nothing to replace, or there are no calibration clips.
        """
        if not self._has_work(model):
            return PassReport(changed=False, summary="the model has no audio encoder: nothing to drop")
        linears, new = audio_linears(model), self._new(model)
        clips = [context.calibration[index] for index in in_turn(context.calibration, self.loss_clips)]
        figures: dict[str, Any] = {"loss_before": calibration_loss(model, clips)}
        bytes_before = sum(model.weight_bytes().values())
        moments = stream_moments(model, new, context.calibration, context.progress)
        width = model.connector.config.audio_width
        mapping, offset = fit_stream(moments, width)
        rows: list[dict[str, Any]] = [
            {"name": name, "residual": relative_residual(linear.weight[:, -width:], mapping, moments)}
            for name, linear in linears.items()
            if new is not None
        ]
        model.connector.replace_audio(mapping.float().to(model.device), offset.float().to(model.device))
        model.set_audio_encoder(new)
        figures["loss_after"] = calibration_loss(model, clips)
        figures["loss_clips"] = len(clips)
        if rows:
            figures["residual"] = sum(row["residual"] for row in rows) / len(rows)
        figures["saved_bytes"] = bytes_before - sum(model.weight_bytes().values())
        layers = None if new is None else len(new.encoder.layers)
        done = "BEATs removed" if new is None else f"BEATs replaced by one of {layers} layers"
        return PassReport(
            changed=True,
            summary=f"{done}; calibration loss {figures['loss_before']:.4f} -> {figures['loss_after']:.4f}",
            figures=figures,
            modules=rows,
        )

    def predict(self, sketch: Sketch) -> None:
        """BEATs goes, another one comes, and the connector's input with them."""
        model, clips = sketch.model, min(self.loss_clips, sketch.calibration_clips)
        if not self._has_work(model):
            return
        audio_linears(model)
        new = self._new(model)
        sketch.run_clips(clips)
        sketch.run_part("audio_encoder", sketch.calibration_clips)
        with sketch.empty():
            old_width, new_width = (
                model.connector.config.audio_width,
                0 if new is None else new.config.encoder_embed_dim,
            )
            model.connector.replace_audio(torch.empty(old_width, new_width), torch.empty(old_width))
        model.set_audio_encoder(new)
        sketch.run_clips(clips)

    def _has_work(self, model: Salmonn) -> bool:
        """Whether there is a BEATs to drop.

        Raises:
            PassError: there is none, but a replacement for it.
        """
        if model.audio_encoder is None and self.replacement is not None:
            raise PassError(
                "drop_audio_encoder: the model has no audio encoder, so nothing says what the connector "
                f"should hear from {self.replacement}; remove the pass"
            )
        return model.audio_encoder is not None

    def _new(self, model: Salmonn) -> Beats | None:
        """The replacement, on the device and in the type of the old one."""
        old, path = model.audio_encoder, self.replacement
        if old is None or path is None:
            return None
        try:
            new = load_beats(path)
        except BaselineError as error:
            raise PassError(f"drop_audio_encoder: replacement: {error}") from error
        patch, found = old.config.input_patch_size, new.config.input_patch_size
        if patch != found:
            raise PassError(
                f"drop_audio_encoder: {path} has patches of {found}, but the model's BEATs of {patch}: its "
                f"states would come at another rate; take a checkpoint with input_patch_size {patch}"
            )
        weight = old.patch_embedding.weight
        return new.to(weight.device, weight.dtype).eval().requires_grad_(False)


def audio_linears(model: Salmonn) -> dict[str, nn.Linear]:
    """The connector's layers that read the audio stream, by full name.

    Raises:
        PassError: one of them is no plain Linear any more.
    """
    found = {
        f"connector.qformer.layers.{index}.cross_attention.{name}": getattr(layer.cross_attention, name)
        for index, layer in enumerate(model.connector.qformer.layers)
        for name in ("key", "value")
    }
    for name, module in found.items():
        if type(module) is not nn.Linear:
            raise PassError(
                f"drop_audio_encoder: {name} is a {type(module).__name__}, whose input columns cannot be "
                f"taken away; put drop_audio_encoder before the pass that replaces it"
            )
    return found


def stream_moments(
    model: Salmonn, new: Beats | None, examples: Sequence[Example], progress: Progress
) -> Moments:
    """Moments of the normed audio streams over all frames that the connector's windows read.

    A frame counts as often as windows hold it. Frames behind the end of a stream are zeros, so they count
    without being added. Clips are taken one by one: nothing but a clip's own padding is in its frames.
    """
    assert model.audio_encoder is not None and model.connector.ln_audio is not None
    norm = model.connector.ln_audio
    width = model.connector.config.audio_width + (0 if new is None else new.config.encoder_embed_dim)
    count, total = 0, torch.zeros(width, dtype=torch.float64)
    square = torch.zeros(width, width, dtype=torch.float64)
    progress.start("drop_audio_encoder: audio stream", len(examples))
    with evaluating(model):
        for example in examples:
            sound = model.pad_sounds([example.waveform])
            stream = norm(model.audio_encoder(*sound).features[0].to(norm.weight.dtype)).float()
            if new is not None:
                states = new(*sound).features[0].float()
                stream = torch.cat((stream, F.layer_norm(states, states.shape[-1:], eps=norm.eps)), dim=-1)
            read = _reads(model, max(model.frames([len(example.waveform)]), len(stream)))
            weighted = stream * read[: len(stream), None].to(stream)
            count += int(read.sum())
            total += weighted.sum(0).cpu()
            square += (weighted.T @ stream).cpu()
            progress.advance()
    mean = total / count
    return Moments(mean, square / count - torch.outer(mean, mean))


def _reads(model: Salmonn, frames: int) -> Tensor:
    """How many windows hold each of that many frames, int64 [frames]."""
    held = model.connector.qformer.windows(torch.arange(frames)[None, :, None])
    return held.flatten().bincount(minlength=frames)
