"""The losses of distillation against their definitions."""

from __future__ import annotations

import pytest
import torch

from audiolm_compress.passes.distillation import logit_loss, state_loss

GENERATOR = torch.Generator().manual_seed(0)
TEACHER = torch.randn(7, 11, generator=GENERATOR)
STUDENT = torch.randn(7, 11, generator=GENERATOR)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_logit_loss_is_the_divergence_of_its_definition(temperature: float) -> None:
    p = (TEACHER.double() / temperature).softmax(-1)
    q = (STUDENT.double() / temperature).softmax(-1)
    expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    assert logit_loss(STUDENT, TEACHER, temperature).item() == pytest.approx(expected.item(), rel=1e-5)
    assert logit_loss(TEACHER + 3.0, TEACHER, temperature).item() == pytest.approx(0, abs=1e-6)


def test_state_loss_is_the_unexplained_share_of_variance() -> None:
    assert state_loss(TEACHER, TEACHER).item() == 0
    mean = TEACHER.mean(dim=0, keepdim=True).expand_as(TEACHER)
    assert state_loss(mean, TEACHER).item() == pytest.approx(1, rel=1e-5)
    scale = torch.logspace(-2, 2, 11)
    plain = state_loss(STUDENT, TEACHER)
    torch.testing.assert_close(state_loss(scale * STUDENT, scale * TEACHER), plain)


def test_the_teacher_gets_no_gradient() -> None:
    for loss in (logit_loss, state_loss):
        student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
        loss(student, teacher).backward()
        assert student.grad is not None
        assert teacher.grad is None
