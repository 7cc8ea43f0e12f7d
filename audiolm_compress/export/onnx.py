"""Encoders and connector as ONNX files: from samples to the LLM's audio embeddings with ONNX Runtime alone.

    speech_encoder.onnx   waveforms [batch, 320 * frames] -> speech_states [batch, frames, width]
    audio_encoder.onnx    waveforms [batch, samples], lengths [batch] -> audio_states [batch, tokens, width]
    connector.onnx        speech_states, audio_states -> embeddings [batch, audio tokens, LLM width]
    onnx.json             inputs, outputs, padding rules, and how far the files are from torch

Batches and clips may have any size. Both encoders begin with samples, so nobody has to compute a spectrogram.
All is float32, whatever the model's types: ONNX Runtime has few 16-bit kernels for a CPU, none for bfloat16,
and its converters quantise float32 files. Packed weights are multiplied out, and activations that the model
rounds to 8 bit are not rounded; what that changes is measured and noted. Dropped layers and pruned widths
are simply not there.

Every file is run before it is kept, on clips of several lengths, against the model's own code in torch with
the same weights in float32; a difference above ``TOLERANCE`` is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.data.example import SAMPLE_RATE
from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.dense import plain_copy
from audiolm_compress.export.graphs import LONGEST_SAMPLES
from audiolm_compress.export.onnx_graph import OPSET, graph_of, run_file, write_graph
from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.connector import Connector
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.speech import FRAME_SAMPLES, encode, log_mel

TOLERANCE = 1e-3  # largest absolute difference to torch; states of Whisper are around 1, up to 50
DESCRIPTION = "onnx.json"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

USE = '''\
import json
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path("PATH OF THIS FOLDER")
said = json.loads((folder / "onnx.json").read_text())
run = {
    name: onnxruntime.InferenceSession(folder / part["file"]).run for name, part in said["parts"].items()
}


def padded(samples, length):
    row = np.zeros((1, length), np.float32)
    row[0, : min(len(samples), length)] = samples[:length]
    return row


def embeddings(samples):
    """float32 [n] at 16 kHz in [-1, 1] -> [1, audio tokens, LLM width]; Whisper hears the first 30 s."""
    rule = said["padding"]
    heard = max(len(samples), rule["shortest_samples"])
    length = rule["longest_samples"]
    if bucket := rule["bucket_samples"]:
        window, stride = rule["window_samples"], rule["stride_samples"]
        whole = -(-heard // bucket) * bucket
        if window:
            whole = window + max(0, -(-(whole - window) // stride)) * stride
        length = min(whole, length)
    states = {"speech_states": run["speech_encoder"](None, {"waveforms": padded(samples, length)})[0]}
    if "audio_encoder" in run:
        width = length if rule["bucket_samples"] else heard
        lengths = np.array([min(heard, width)])
        clip = {"waveforms": padded(samples, width), "lengths": lengths}
        states["audio_states"] = run["audio_encoder"](None, clip)[0]
    return run["connector"](None, states)[0]
'''


def write_onnx(model: Salmonn, folder: Path, dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Write encoders and connector, run what was written, and return notes.

    Args:
        model: LoRA merged.
        folder: exists.
        dtype: must be None, the files are float32.

    Raises:
        AudioLMError: a package is missing, a part has no plain form, or a file does not give what torch does.
    """
    check_onnx(dtype)
    _check_possible(model)
    notes: list[str] = []
    parts: dict[str, Any] = {}
    batches = [Heard(clips) for clips in check_clips()]
    for name in ("speech_encoder", "audio_encoder", "connector"):
        part = getattr(model, name)
        if part is None:
            notes.append("the model has no audio encoder, so there are two files")
            continue
        plain, done = plain_copy(part)
        expected = [batch.in_torch(model, plain) for batch in batches]
        parts[name] = write_graph(graph_of(model, plain), folder / f"{name}.onnx")
        worst = max(
            batch.in_file(model, folder / f"{name}.onnx", parts[name], result)
            for batch, result in zip(batches, expected, strict=True)
        )
        if not worst <= TOLERANCE:
            raise AudioLMError(
                f"{name}.onnx differs from torch by {worst:.1e}, more than {TOLERANCE:g}, so nothing "
                f"was exported; installed are {_versions()}, constraints.txt names versions that were tested"
            )
        parts[name]["max_difference_to_torch"] = worst
        notes += [f"{name}, {note}" for note in done]
        notes.append(f"{name}.onnx differs from torch by at most {worst:.1e}")
    whole, largest = (max(figures) for figures in zip(*(b.from_model(model) for b in batches), strict=True))
    notes.append(
        f"embeddings differ from those of the model as it runs, in its own types, by at most {whole:.1e} "
        f"(the largest is {largest:.2f})"
    )
    notes.append(f"opset {OPSET}, float32; the LLM is not among the files, see --to gptq and safetensors16")
    described = describe(model) | {"parts": parts, "max_difference_to_model": whole}
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return tuple(notes)


class Heard:
    """A batch of clips on its way through the files, beside what torch makes of the same inputs.

    Attributes:
        clips: samples [n] each.
        states: what the files gave so far, by name of the output.
    """

    def __init__(self, clips: list[Tensor]) -> None:
        self.clips = clips
        self.states: dict[str, Tensor] = {}

    @torch.no_grad()
    def in_torch(self, model: Salmonn, part: nn.Module) -> Tensor:
        """The output of ``part``, a plain copy, by the model's own code."""
        if isinstance(part, Beats):
            return part(*model.pad_sounds(self.clips)).features
        if isinstance(part, Connector):
            return part(self.states["speech_states"], self.states.get("audio_states"))
        frames = model.frames([len(clip) for clip in self.clips])
        return encode(part, log_mel(model.feature_extractor, self.clips, frames))

    def in_file(self, model: Salmonn, file: Path, said: Mapping[str, Any], expected: Tensor) -> float:
        """Run a file, keep its output, and tell how far it is from ``expected``."""
        inputs = {**padded_speech(model, self.clips), **self.states}
        if "lengths" in {one["name"] for one in said["inputs"]}:
            inputs |= padded_sounds(model, self.clips)
        (output,) = said["outputs"]
        wanted = {one["name"]: inputs[one["name"]] for one in said["inputs"]}
        self.states[output["name"]] = run_file(file, wanted)
        return difference(self.states[output["name"]], expected)

    @torch.no_grad()
    def from_model(self, model: Salmonn) -> tuple[float, float]:
        """How far the embeddings are from the model's, and how large those are."""
        own = model.connect(model.encode_speech(self.clips), model.encode_sound(self.clips)).embeddings
        return difference(self.states["embeddings"], own), own.abs().max().item()


def padded_speech(model: Salmonn, clips: list[Tensor]) -> dict[str, Tensor]:
    """The input of the speech encoder's file for clips that are encoded together."""
    length = model.frames([len(clip) for clip in clips]) * FRAME_SAMPLES
    waveforms = torch.zeros(len(clips), length)
    for row, clip in zip(waveforms, clips, strict=True):
        row[: len(clip)] = clip[:length]
    return {"waveforms": waveforms}


def padded_sounds(model: Salmonn, clips: list[Tensor]) -> dict[str, Tensor]:
    """The inputs of the audio encoder's file for clips that are encoded together."""
    waveforms, padding = model.pad_sounds(clips)
    if padding is None:
        return {"waveforms": waveforms, "lengths": torch.full((len(clips),), waveforms.shape[1])}
    return {"waveforms": waveforms, "lengths": (~padding).sum(1)}


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ or a number is not finite."""
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    return (found.float() - expected.float()).abs().max().item()


def describe(model: Salmonn) -> dict[str, Any]:
    """What a user must know besides the files' inputs and outputs; all lengths in samples."""
    connector, bucket = model.connector.config, model.bucket_seconds
    frames = None if bucket is None else round(bucket * SAMPLE_RATE) // FRAME_SAMPLES
    return {
        "format": "audiolm_compress onnx 1",
        "opset": OPSET,
        "sampling_rate": SAMPLE_RATE,
        "samples": "float32 in [-1, 1], one channel",
        "padding": {
            "rule": (
                "Zeros behind the clip. Whisper: to longest_samples; if there is bucket_samples, to at "
                "least shortest_samples, then a multiple of it, then up to the end of a window "
                "(window_samples every stride_samples), at most longest_samples; what is beyond is cut off. "
                "Audio encoder: with bucket_samples as Whisper, else to at least shortest_samples; lengths "
                "are those of the clips, at least shortest_samples, at most the padded length. "
                "Clips of one batch must be padded alike."
            ),
            "shortest_samples": SAMPLE_RATE,
            "bucket_samples": None if frames is None else frames * FRAME_SAMPLES,
            "window_samples": connector.window * FRAME_SAMPLES,
            "stride_samples": connector.stride * FRAME_SAMPLES,
            "longest_samples": LONGEST_SAMPLES,
        },
        "embedding_scale": float(getattr(model.causal_lm.get_input_embeddings(), "scalar_embed_scale", 1.0)),
        "embedding_scale_meaning": (
            "multiply embeddings by it before they are inputs_embeds of transformers 5; its releases before, "
            "and vLLM, multiply inputs_embeds by it themselves"
        ),
    }


def check_clips() -> list[list[Tensor]]:
    """Two batches, the same at every call: noise of 0.7 s beside 3.21 s of a chirp; 31 s of a chirp.

    The chirps fade in and have noise on them. Half a minute of noise alone would be a bad test: Whisper on it
    is so ill-conditioned that torch in float32 is 1e-3 from torch in float64.
    """
    rng = torch.Generator().manual_seed(0)
    short, middle, long = (torch.randn(length, generator=rng) * 0.01 for length in (11_200, 51_360, 496_000))
    return [[short, middle + _chirp(len(middle))], [long + _chirp(len(long))]]


def _chirp(samples: int) -> Tensor:
    """A tone that rises to 3 kHz and gets louder."""
    time = torch.linspace(0, 1, samples)
    return torch.sin(torch.pi * 3000 * samples / SAMPLE_RATE * time.square()) * time * 0.5


def check_onnx(dtype: torch.dtype | None) -> None:
    """What can be said before a model is loaded.

    Raises:
        AudioLMError: a type is asked for, or a package is missing.
    """
    if dtype is not None:
        raise AudioLMError("--dtype: ONNX files are float32; leave it out")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise AudioLMError(
            f"--to onnx needs {', '.join(missing)}, not installed here; "
            f"pip install -c constraints.txt 'audiolm-compress[onnx]'"
        )


def _check_possible(model: Salmonn) -> None:
    if model.audio_encoder is not None and not isinstance(model.audio_encoder, Beats):
        raise AudioLMError(
            f"the audio encoder is a {type(model.audio_encoder).__name__}; only BEATs is written as ONNX"
        )
    extractor = model.feature_extractor
    if (extractor.dither, extractor.hop_length, extractor.chunk_length) != (0.0, FRAME_SAMPLES // 2, 30):
        raise AudioLMError(
            f"the feature extractor has dither {extractor.dither}, hops of {extractor.hop_length} samples "
            f"and chunks of {extractor.chunk_length} s; ONNX files know 0, {FRAME_SAMPLES // 2} and 30"
        )


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", *PACKAGES))
