"""Properties of the model that hold for every checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from audiolm_compress.data.example import Example
from audiolm_compress.errors import DataError, PassError
from audiolm_compress.salmonn.connector import Connector, ConnectorConfig
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import IGNORED

Loader = Callable[..., Salmonn]


def equally_long(clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """Cut clips to one length.

    BEATs' states under the padding of a shorter clip are read too, upstream as here, so that the length of
    its neighbours changes what is heard after its end.
    """
    return [clip[: min(map(len, clips))] for clip in clips]


def test_sharing_between_windows_is_exact() -> None:
    """Evaluation computes the queries' self-attention once; training, here without dropout, does not."""
    torch.manual_seed(0)
    config = ConnectorConfig(
        12, 8, 10, hidden=16, heads=2, layers=2, intermediate=24, queries=2, window=5, stride=3, dropout=0.0
    )
    connector = Connector(config)
    speech, audio = torch.randn(2, 40, 12), torch.randn(2, 33, 8)
    torch.testing.assert_close(connector.eval()(speech, audio), connector.train()(speech, audio))
    assert connector(speech, audio).shape == (2, config.tokens(40), 10)


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_batches_answer_like_single_clips(
    small_model: Loader, clips: list[torch.Tensor], variant: str
) -> None:
    model = small_model(variant)
    clips = equally_long(clips)
    alone = [model.generate([clip], num_beams=1)[0] for clip in clips]
    assert model.generate(clips, num_beams=1) == alone


def test_prompts_of_different_length_do_not_disturb_each_other(
    small_model: Loader, clips: list[torch.Tensor]
) -> None:
    model = small_model()
    clips = equally_long(clips)
    examples = [Example("0", clips[0], "audiocaption", "a"), Example("1", clips[1], "asr", "b")]
    settings = model.decode_settings("asr", num_beams=1)
    together = model.texts(model.generate_ids(model.prepare_examples(examples), settings), settings)
    assert together == [
        model.generate([clips[0]], "audiocaption", num_beams=1)[0],
        model.generate([clips[1]], "asr", num_beams=1)[0],
    ]


def test_labels_cover_the_text_and_its_end_only(small_model: Loader, clips: list[torch.Tensor]) -> None:
    model = small_model()
    examples = [Example("0", clips[0], "asr", "one two"), Example("1", clips[1], "asr", "three")]
    inputs = model.prepare_training(examples)
    assert inputs.labels is not None
    for row, example in zip(inputs.labels, examples, strict=True):
        assert row[row != IGNORED].tolist() == model._ids(example.text + model.end_symbol)
    torch.testing.assert_close(
        model.loss(examples),
        nn.functional.cross_entropy(
            model.logits(examples)[:, :-1].flatten(0, 1), inputs.labels[:, 1:].flatten(), ignore_index=IGNORED
        ),
    )


def test_merged_lora_gives_the_same_logits(small_model: Loader, clips: list[torch.Tensor]) -> None:
    model = small_model()
    inputs = model.prepare(clips)
    before = model.score(inputs)
    assert model.merge_lora() == 6
    torch.testing.assert_close(model.score(inputs), before, atol=1e-3, rtol=1e-4)
    assert model.merge_lora() == 0


def test_lora_is_not_merged_into_packed_weights(small_model: Loader) -> None:
    model = small_model()
    model.causal_lm.model.layers[0].self_attn.q_proj.base_layer = nn.Identity()
    with pytest.raises(PassError, match="q_proj is a Identity"):
        model.merge_lora()


def test_cast_leaves_computed_buffers(small_model: Loader) -> None:
    model = small_model()
    size = sum(model.weight_bytes().values())
    assert model.cast(torch.bfloat16, ("llm",)) > 0
    assert {parameter.dtype for parameter in model.llm.parameters()} == {torch.bfloat16}
    assert model.causal_lm.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.connector.projection.weight.dtype == torch.float32
    assert sum(model.weight_bytes().values()) < size
    assert model.cast(torch.bfloat16, ("llm",)) == 0


def test_short_clips_are_padded(small_model: Loader, clips: list[torch.Tensor]) -> None:
    model = small_model()
    short = clips[0][:4000]
    padded = torch.cat((short, torch.zeros(12000)))
    torch.testing.assert_close(
        model.encode_audio([short]).embeddings, model.encode_audio([padded]).embeddings
    )


def test_unknown_decode_setting(small_model: Loader, clips: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="beams"):
        small_model().generate(clips, beams=4)
    with pytest.raises(DataError, match="no prompt for task 'music'"):
        small_model().generate(clips, task="music")
