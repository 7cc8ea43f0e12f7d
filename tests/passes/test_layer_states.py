"""The states between layers are those that the model computes, and asking for them leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from audiolm_compress.errors import PassError
from audiolm_compress.passes import toolkit
from audiolm_compress.passes.base import Context
from audiolm_compress.passes.toolkit import layer_states
from audiolm_compress.salmonn.model import Salmonn


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_the_last_states_of_the_llm_give_its_logits(
    small_model: Callable[..., Salmonn], context: Context, variant: str
) -> None:
    model, examples = small_model(variant).train(), context.calibration[:3]
    batches = list(layer_states(model, "llm", examples, batch_size=2))
    assert [len(states[0]) for states, _ in batches] == [2, 1]
    assert model.training, "the mode is as before"
    model.eval()
    for (states, mask), clips in zip(batches, (examples[:2], examples[2:]), strict=True):
        inputs = model.prepare_training(clips)
        assert mask is not None and torch.equal(mask, inputs.mask)
        assert len(states) == len(model.layers("llm")) + 1
        assert not any(state.requires_grad for state in states)
        lm = model.causal_lm
        logits = lm.get_output_embeddings()(lm.base_model.norm(states[-1]))
        if cap := getattr(lm.config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        torch.testing.assert_close(logits, model.score(inputs).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", ["speech_encoder", "audio_encoder"])
def test_encoders_have_a_state_around_each_layer(
    small_model: Callable[..., Salmonn], context: Context, part: str
) -> None:
    model = small_model()
    [(states, mask)] = list(layer_states(model, part, context.calibration[:1], batch_size=1))
    assert mask is None
    assert len(states) == len(model.layers(part)) + 1
    assert len({state.shape for state in states}) == 1
    assert not any(torch.equal(one, other) for one, other in pairwise(states))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.layers(part))


def test_only_layers_have_states(small_model: Callable[..., Salmonn], context: Context) -> None:
    with pytest.raises(PassError, match="the connector's layers"):
        next(layer_states(small_model(), "connector", context.calibration, batch_size=1))


def test_the_toolkit_is_pinned() -> None:
    """Other packages import these names: one that goes is a change that they must be told of."""
    assert toolkit.__all__ == [
        "Context",
        "Example",
        "Pass",
        "PassError",
        "PassReport",
        "Progress",
        "Salmonn",
        "Sketch",
        "calibration_loss",
        "evaluating",
        "in_turn",
        "layer_states",
        "part_calibration",
    ]
    assert all(hasattr(toolkit, name) for name in toolkit.__all__)
