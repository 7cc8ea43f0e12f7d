"""A trained model in bfloat16: a rounding at the wrong place would choose another word sooner or later."""

from __future__ import annotations

import pytest
import torch

from audiolm_compress.data.loading import in_turn, load_examples
from audiolm_compress.salmonn.generation import transformers_ids
from audiolm_compress.salmonn.load import TINY, load_model

CLIPS = 6


@pytest.mark.slow
def test_ids_of_real_answers() -> None:
    """Speech and sounds, in batches of two with padding; greedy, and with the model's own four beams."""
    model = load_model("tiny")
    found = load_examples((str(TINY / "data" / "test.json"),)).examples
    examples = [found[index] for index in in_turn(found, CLIPS)]
    for start in range(0, CLIPS, 2):
        with torch.inference_mode():
            inputs = model.prepare_examples(examples[start : start + 2])
            for beams in (1, 4):
                settings = model.decode_settings("asr", num_beams=beams)
                ours = model.generate_ids(inputs, settings)
                assert ours.tolist() == transformers_ids(model, inputs, settings).tolist()
