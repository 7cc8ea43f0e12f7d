"""FLOPs by the rules of names and shapes against PyTorch's own count of what a model really computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from audiolm_compress.planning.layers import layers_of
from audiolm_compress.planning.work import Clip, part_costs
from audiolm_compress.salmonn.model import Salmonn


@pytest.mark.parametrize("bucket", [None, 1.0])
@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_flops_are_those_that_are_computed(
    small_model: Callable[..., Salmonn], variant: str, bucket: float | None
) -> None:
    """All products but those of the two spectrograms, which are no part of the model."""
    model = small_model(variant)
    model.merge_lora()
    model.bucket_seconds = bucket
    clip = torch.zeros(10 * 16000)
    expected = part_costs(layers_of(model), Clip.of(model), model)
    # Written out: PyTorch's counter does not know the fused attention of the CPU.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as speech:
            states = model.encode_speech([clip])
        with FlopCounterMode(display=False) as spectrogram:
            sound = model.encode_sound([clip])
        with FlopCounterMode(display=False) as connector:
            model.connect(states, sound)
        inputs = model.prepare([clip], "asr")
        with FlopCounterMode(display=False) as llm:
            model.llm(inputs_embeds=inputs.embeds, attention_mask=inputs.mask, logits_to_keep=1)
    found = {name: sum(part.flops.values()) for name, part in expected.items()}
    heard = 2 * model.frames([len(clip)]) * 201 * model.speech_encoder.config.num_mel_bins * 2
    assert found["speech_encoder"] == pytest.approx(speech.get_total_flops() - heard, rel=0.01)
    assert found["connector"] == pytest.approx(connector.get_total_flops(), rel=0.01)
    assert found["llm"] == pytest.approx(llm.get_total_flops(), rel=0.01)
    mel = 2 * 998 * 257 * 128  # frames x FFT bins x mel bins
    assert found["audio_encoder"] == pytest.approx(spectrogram.get_total_flops() - mel, rel=0.05)
