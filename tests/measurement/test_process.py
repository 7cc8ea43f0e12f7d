"""One model measured from end to end, in this process and in one of its own."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import soundfile
import torch

from audiolm_compress.data.loading import load_examples
from audiolm_compress.errors import AudioLMError, DataError
from audiolm_compress.measurement.measurements import ClipResult, Measurements
from audiolm_compress.measurement.process import measure
from audiolm_compress.measurement.quality import answer_clips
from audiolm_compress.measurement.reporter import Reporter
from audiolm_compress.measurement.request import Request
from audiolm_compress.measurement.settings import BenchmarkSettings, ClipSource
from audiolm_compress.measurement.worker import measure_here
from audiolm_compress.salmonn.asking import Asking
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.model import Salmonn

from .recorder import Recorder

SETTINGS = BenchmarkSettings.model_validate(
    {
        "batch_size": 2,
        "decode": {
            "asr": {"max_new_tokens": 4, "num_beams": 1},
            "aac": {"max_new_tokens": 4, "num_beams": 2},
        },
        "latency": {"clips": 1, "warmup": 0},
        "noise_protocol": {"warmup": 0, "iterations": 1},
    }
)


@pytest.fixture
def source(parity: Path) -> str:
    return str(parity / "llama/config.yaml")


@pytest.fixture
def annotation(tmp_path: Path, clips: list[torch.Tensor]) -> Path:
    items = []
    for index, task in enumerate(("asr", "audiocaption", "asr", "audiocaption")):
        soundfile.write(tmp_path / f"{index}.wav", clips[index % 2][: 32_000 + index].numpy(), 16_000)
        items.append(
            {"path": f"{index}.wav", "text": f"some words {index}", "task": task, "testset_id": index}
        )
    file = tmp_path / "test.json"
    file.write_text(json.dumps({"annotation": items}))
    return file


def test_measuring_here(source: str, annotation: Path, small_model: Callable[[str], Salmonn]) -> None:
    clips = ClipSource(test=(str(annotation),))
    request = Request(source=source, clips=clips, settings=SETTINGS, device="cpu", seed=0)
    stream = io.StringIO()
    found = measure_here(request, Reporter(stream))

    model = small_model("llama")
    assert found.weight_bytes == sum(model.weight_bytes().values())
    assert [clip.testset_id for clip in found.clips] == ["0", "1", "2", "3"]
    waveform = torch.from_numpy(soundfile.read(annotation.parent / "2.wav", dtype="float32")[0])
    assert found.clips[2].text == model.generate([waveform], "asr", num_beams=1, max_new_tokens=4)[0]
    assert found.decode["asr"]["num_beams"] == 1 and found.decode["audiocaption"]["num_beams"] == 2
    assert found.counts["clips_asr"] == 2 and found.clips[0].seconds == 2.0
    assert found.transformers_latency is not None and found.transformers_latency.ttft.runs == 1
    assert found.environment["threads"] == torch.get_num_threads()

    messages = [json.loads(line) for line in stream.getvalue().splitlines()]
    totals = [message["total"] for message in messages if "start" in message]
    assert sum(totals) == sum(message.get("advance", 0) for message in messages) == 1 + 2 + 4 + 1
    layers = 2 * 4 * model.causal_lm.config.num_hidden_layers
    heads = model.causal_lm.config.num_key_value_heads * model.causal_lm.config.head_dim
    assert found.memory.kv_cache_bytes_per_token == layers * heads


def test_measuring_as_another_model_is_asked(
    source: str, annotation: Path, small_model: Callable[[str], Salmonn]
) -> None:
    """Prompts and decode settings travel with the request, as JSON, and take the place of the model's own."""
    model = small_model("llama")
    model.prompts = model.prompts.worded(["asr"], "Say: {}", "<SpeechHere> what?")
    model.decode = {"default": DecodeSettings(max_new_tokens=3, num_beams=1)}
    request = Request(
        source=source,
        clips=ClipSource(test=(str(annotation),)),
        settings=SETTINGS.model_copy(update={"decode": {}}),
        device="cpu",
        seed=0,
        asking=Asking.of(model),
    )
    read = Request.model_validate_json(request.model_dump_json())
    assert read == request
    found = measure_here(read, Reporter(io.StringIO()))
    assert found.decode["asr"] == model.decode["default"].model_dump()
    waveform = torch.from_numpy(soundfile.read(annotation.parent / "2.wav", dtype="float32")[0])
    assert found.clips[2].text == model.generate([waveform], "asr")[0]


def test_shares_of_the_answers_are_those_of_one_process(
    annotation: Path, small_model: Callable[[str], Salmonn]
) -> None:
    """Also where the decode settings sample."""
    model = small_model("llama")
    examples = load_examples(annotation).examples
    decode = {"max_new_tokens": 6, "do_sample": True, "temperature": 2.0, "num_beams": 1}
    settings = BenchmarkSettings.model_validate({"batch_size": 1, "decode": {"asr": decode, "aac": decode}})

    def answered(*share: int) -> dict[int, ClipResult]:
        return answer_clips(model, examples, settings, lambda count: None, seed=3, share=(share[0], share[1]))

    whole, shares = answered(0, 1), [answered(index, 3) for index in (2, 0, 1)]
    assert list(whole) == [0, 1, 2, 3]
    assert sorted(map(len, shares)) == [1, 1, 2]
    assert shares[0] | shares[1] | shares[2] == whole
    assert len({clip.text for clip in whole.values()}) == 4
    assert answered(4, 5) == {}


@pytest.mark.slow
def test_measuring_in_a_process_of_its_own(source: str, annotation: Path) -> None:
    progress = Recorder()
    clips = ClipSource(test=(str(annotation),))
    found = measure(source, clips, SETTINGS, name="baseline", progress=progress)
    assert [line[0] for line in progress.lines] == [
        "baseline: loading the model",
        "baseline: timing answers",
        "baseline: timing the upstream protocol",
        "baseline: answering all clips",
        "baseline: timing answers in transformers' generate",
    ]
    assert all(line[1] == line[2] for line in progress.lines)
    assert found.wer is not None and found.cider_d is not None
    assert all(clip.scores.keys() & {"wer", "cider_d"} for clip in found.clips)
    assert found.peak_memory_bytes > found.weight_bytes > 0
    assert found.ttft_s > 0 and found.tpot_s is not None and found.counts["not_scored"] == 0
    assert Measurements.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.slow
def test_an_error_in_the_process_keeps_its_type(source: str, annotation: Path) -> None:
    (annotation.parent / "1.wav").write_bytes(b"no audio")
    clips = ClipSource(test=(str(annotation),))
    with pytest.raises(DataError, match="measuring the model") as caught:
        measure(source, clips, SETTINGS)
    assert "1.wav: cannot be decoded" in str(caught.value)


@pytest.mark.slow
def test_a_killed_process_is_an_error_that_says_so(source: str, annotation: Path) -> None:
    class Killer(Recorder):
        def start(self, description: str, total: int) -> None:
            for child in psutil.Process().children():
                if "audiolm_compress.measurement.worker" in child.cmdline():
                    child.send_signal(signal.SIGKILL)

    clips = ClipSource(test=(str(annotation),))
    with pytest.raises(AudioLMError, match=r"killed by SIGKILL.*batch_size"):
        measure(source, clips, SETTINGS, progress=Killer())
