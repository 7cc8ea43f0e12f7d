"""Text behind un-padded audio that keeps the position which 30 s of audio gave it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from audiolm_compress.runtime.settings import RuntimeSettings
from audiolm_compress.salmonn.model import Salmonn


@pytest.fixture(params=["gemma", "llama"])
def unpadded(request: pytest.FixtureRequest, small_model: Callable[..., Salmonn]) -> Salmonn:
    model = small_model(request.param)
    model.audio_positions = model.connector.config.tokens(1500)
    model.bucket_seconds = 1.0
    return model


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_stays_where_it_was(unpadded: Salmonn, clips: list[torch.Tensor], side: str) -> None:
    texts = None if side == "left" else ["one two", "three"]
    around = [unpadded.prompts.around("asr")] * 2
    inputs = unpadded.wrap(unpadded.encode_audio(clips), around, texts, padding_side=side)
    unpadded.bucket_seconds = unpadded.audio_positions = None
    padded = unpadded.wrap(unpadded.encode_audio(clips), around, texts, padding_side=side)
    assert padded.positions is None and inputs.positions is not None
    assert inputs.mask.shape[1] < padded.mask.shape[1]
    begin = len(unpadded.prepare(clips).prefixes[0])  # type: ignore[index]
    for row, mask, whole in zip(inputs.positions, inputs.mask, padded.mask, strict=True):
        places = row[mask.bool()]
        steps = places.diff()
        assert places[: begin + 1].tolist() == list(range(begin + 1))
        assert int((steps > 1).sum()) == 1 and int(steps.min()) == 1
        assert int(places[-1]) == int(whole.sum()) - 1


def test_audio_of_30_s_leaves_no_gap(unpadded: Salmonn) -> None:
    clip = [torch.randn(30 * 16_000, generator=torch.Generator().manual_seed(0)) * 0.1]
    inputs = unpadded.prepare(clip)
    assert inputs.positions is not None
    assert torch.equal(inputs.positions[0], torch.arange(inputs.mask.shape[1]))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_both_runtimes_agree(unpadded: Salmonn, clips: list[torch.Tensor], beams: int, cached: bool) -> None:
    unpadded.prompt_cache = cached
    if hasattr(unpadded.causal_lm.config, "sliding_window"):
        # transformers' generate counts columns in a window, which must not matter here
        unpadded.causal_lm.config.sliding_window = 4096
        for layer in unpadded.causal_lm.model.layers:
            layer.self_attn.sliding_window = layer.self_attn.sliding_window and 4096
    settings = unpadded.decode_settings("asr", num_beams=beams, max_new_tokens=12)
    inputs = unpadded.prepare(clips, "asr")
    native = unpadded.generate_ids(inputs, settings)
    unpadded.runtime = RuntimeSettings(engine="transformers")
    assert torch.equal(native, unpadded.generate_ids(inputs, settings))


def test_a_batch_answers_as_single_clips(unpadded: Salmonn, clips: list[torch.Tensor]) -> None:
    together = unpadded.prefill(unpadded.prepare(clips))[0]
    for index, clip in enumerate(clips):
        torch.testing.assert_close(together[index], unpadded.prefill(unpadded.prepare([clip]))[0][0])


def test_scores_are_those_of_the_prompt_that_is_read(unpadded: Salmonn, clips: list[torch.Tensor]) -> None:
    """Teacher-forced logits at the last position are the prefill's."""
    with torch.inference_mode():
        inputs = unpadded.prepare(clips)
        torch.testing.assert_close(
            unpadded.score(inputs)[:, -1], unpadded.prefill(inputs)[0], rtol=1e-4, atol=1e-4
        )
