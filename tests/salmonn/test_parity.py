"""Our model against arrays that the upstream code computed, within the tolerances given with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from audiolm_compress.salmonn.hearing import AudioTokens
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import load_upstream
from audiolm_compress.salmonn.wrapping import Inputs


class Case(NamedTuple):
    model: Salmonn
    arrays: dict[str, NDArray[Any]]
    expected: dict[str, Any]
    eager: str  # suffix of what Gemma-2 gives with its soft caps applied
    audio: AudioTokens
    inputs: Inputs
    training: Inputs
    clips: list[torch.Tensor]


@pytest.fixture(scope="module", params=["gemma", "llama"])
def case(request: pytest.FixtureRequest, parity: Path, clips: list[torch.Tensor]) -> Case:
    folder = parity / request.param
    model = load_upstream(folder / "config.yaml")
    arrays: dict[str, NDArray[Any]] = {}
    for name in ("inputs", "encoders", "qformer", "llm"):
        arrays |= dict(np.load(folder / f"{name}.npz"))
    expected = json.loads((folder / "expected.json").read_text())
    audio = model.encode_audio(clips)
    around = [model.prompts.around("audiocaption")] * 2
    texts = [text.removesuffix(model.end_symbol) for text in expected["target_texts"]]
    return Case(
        model,
        arrays,
        expected,
        "_eager" if request.param == "gemma" else "",
        audio,
        model.wrap(audio, around),
        model.wrap(audio, around, texts),
        clips,
    )


def close(found: torch.Tensor, array: NDArray[Any], tolerance: float) -> None:
    assert tuple(found.shape) == array.shape
    torch.testing.assert_close(found.float(), torch.from_numpy(array), atol=tolerance, rtol=0)


def scale(model: Salmonn) -> float:
    return float(getattr(model.causal_lm.get_input_embeddings(), "embed_scale", 1.0))


def test_mel(case: Case) -> None:
    waves = [clip.numpy() for clip in case.clips]
    features = case.model.feature_extractor(waves, sampling_rate=16000, return_tensors="pt").input_features
    close(features, case.arrays["spectrogram"], 5e-5)


def test_whisper_states(case: Case) -> None:
    close(case.model.encode_speech(case.clips), case.arrays["whisper_last_hidden_state"], 1e-4)


def test_beats_states(case: Case) -> None:
    states = case.model.encode_sound(case.clips)
    alone = case.model.encode_sound(case.clips[1:])
    assert states is not None and alone is not None
    close(states, case.arrays["beats_features"], 1e-4)
    close(alone, case.arrays["clip1_beats_features"], 1e-4)


def test_windows(case: Case) -> None:
    connector = case.model.connector
    assert connector.config.window == case.arrays["window_frames"]
    joined = connector.join(case.model.encode_speech(case.clips), case.model.encode_sound(case.clips))
    rows = connector.qformer.windows(joined)[case.arrays["window_input_rows"]]
    close(rows, case.arrays["window_input"], 1e-4)


def test_qformer(case: Case) -> None:
    connector = case.model.connector
    joined = connector.join(case.model.encode_speech(case.clips), case.model.encode_sound(case.clips))
    close(connector.qformer(joined).flatten(0, 1), case.arrays["qformer_last_hidden_state"], 1e-4)


def test_audio_tokens(case: Case) -> None:
    close(case.audio.embeddings, case.arrays["speech_embeds"], 2e-5)
    assert torch.equal(case.audio.mask, torch.from_numpy(case.arrays["speech_atts"]))
    close(case.model.encode_audio(case.clips[1:]).embeddings, case.arrays["clip1_speech_embeds"], 2e-5)


def test_prompt_tokens(case: Case) -> None:
    before, after = case.model.prompts.around("audiocaption")
    ids = case.expected["token_ids"]
    assert case.model._ids(before) == ids["before"]
    assert case.model._ids(after) == ids["after_audiocaption"]
    assert case.model._ids(case.model.prompts.around("asr")[1]) == ids["after_asr"]


def test_wrapped_embeddings(case: Case) -> None:
    close(case.inputs.embeds / scale(case.model), case.arrays["inputs_embeds"], 2e-5)
    assert torch.equal(case.inputs.mask, torch.from_numpy(case.arrays["attention_mask"]))


def test_mixed_prompts(case: Case) -> None:
    prompts = case.model.prompts
    mixed = case.model.wrap(case.audio, [prompts.around("audiocaption"), prompts.around("asr")])
    mask = torch.from_numpy(case.arrays["mixed_prompts_attention_mask"])
    assert torch.equal(mixed.mask, mask)
    # What stands under the mask is read by nobody: upstream has [PAD]'s random row there.
    ours = mixed.embeds / scale(case.model) * mask[..., None]
    close(ours, case.arrays["mixed_prompts_inputs_embeds"] * mask[..., None].float().numpy(), 2e-5)


def test_logits(case: Case) -> None:
    # The last class is the added [PAD], whose row upstream draws anew at every load.
    close(case.model.score(case.inputs)[..., :-1], case.arrays["logits" + case.eager][..., :-1], 2e-3)


def test_labels_and_loss(case: Case) -> None:
    assert torch.equal(case.training.labels, torch.from_numpy(case.arrays["train_labels"]))  # type: ignore[arg-type]
    assert torch.equal(case.training.mask, torch.from_numpy(case.arrays["train_attention_mask"]))
    loss = case.model.text_loss(case.training).item()
    assert loss == pytest.approx(case.expected["loss" + case.eager], abs=2e-4)


@pytest.mark.parametrize("beams", [1, 4])
def test_generated_ids(case: Case, beams: int) -> None:
    settings = case.model.decode_settings("audiocaption", num_beams=beams)
    ids = case.model.generate_ids(case.inputs, settings).tolist()
    assert ids == case.expected["evaluate_generate" + case.eager][f"beams{beams}"]


@pytest.mark.parametrize("beams", [1, 4])
def test_repetition_penalty(case: Case, beams: int) -> None:
    settings = case.model.decode_settings("audiocaption", num_beams=beams, repetition_penalty=1.7)
    ids = case.model.generate_ids(case.model.prepare(case.clips[1:], "audiocaption"), settings).tolist()
    assert ids == case.expected["evaluate_generate" + case.eager][f"clip1_beams{beams}_reppen1.7"]


def test_step_by_step_equals_generate(case: Case) -> None:
    inputs = case.model.prepare(case.clips[1:], "audiocaption")
    expected = case.expected["greedy_recomputed_clip1" + case.eager][0]
    ids = []
    with torch.inference_mode():
        logits, reading = case.model.prefill(inputs)
        for _ in expected:
            token = logits.argmax(-1)
            ids.append(token.item())
            logits = case.model.decode_step(token, reading)
    assert ids == expected
