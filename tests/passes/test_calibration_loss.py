"""The calibration loss: the mean over tokens, however the clips are batched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass
from audiolm_compress.passes.calibration_loss import calibration_loss, clip_losses
from audiolm_compress.passes.layer_drop import LayerDrop
from audiolm_compress.passes.prune_width import PruneWidth
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.wrapping import IGNORED


def test_mean_over_tokens(small_model: Callable[..., Salmonn], context: Context) -> None:
    """Against the log-probabilities of one token after the other."""
    model = small_model().train()
    examples = context.calibration[:3]
    found = calibration_loss(model, examples, batch_size=2)
    assert model.training
    model.eval()
    surprises = []
    with torch.no_grad():
        # The batches of the loss: a clip's tokens depend on the length of its neighbours.
        for batch in (examples[:2], examples[2:]):
            inputs = model.prepare_training(batch)
            log_p = model.score(inputs).log_softmax(-1)
            assert inputs.labels is not None
            surprises += [
                -log_p[row, place - 1, label].item()
                for row, labels in enumerate(inputs.labels.tolist())
                for place, label in enumerate(labels)
                if label != IGNORED
            ]
    assert found == pytest.approx(sum(surprises) / len(surprises), rel=1e-5)


def test_clips_add_up(small_model: Callable[..., Salmonn], context: Context) -> None:
    """Texts of different lengths weigh as many tokens as they have."""
    model, examples = small_model().eval(), context.calibration[:3]
    with torch.no_grad():
        added = [loss().item() for loss in clip_losses(model, examples)]
    assert len(set(added)) == 3
    assert sum(added) == pytest.approx(calibration_loss(model, examples, batch_size=1), rel=1e-5)


def test_no_clips(small_model: Callable[..., Salmonn]) -> None:
    with pytest.raises(PassError, match="there are none; give calibration data"):
        calibration_loss(small_model(), [])


@pytest.mark.parametrize(
    "entry",
    [
        PruneWidth(part="speech_encoder", ffn=0.5, importance="magnitude"),
        LayerDrop(part="speech_encoder", keep=1),
    ],
)
def test_a_broken_model_is_refused_before_it_is_changed(
    small_model: Callable[..., Salmonn], context: Context, entry: Pass
) -> None:
    model = small_model()
    with torch.no_grad():
        model.speech_encoder.layers[0].fc2.bias[0] = torch.nan
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PassError, match=f"{entry.kind}: the calibration loss is nan before anything"):
        entry.apply(model, context)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if not value.isnan().any())
