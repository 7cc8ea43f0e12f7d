"""The losses of distillation: tensors in, a scalar out.

    logits   T^2 * mean over text positions of KL(p_teacher || p_student),  p = softmax(z / T)
             (Hinton et al., arXiv:1503.02531, section 2)
    states   mean over channels c of  sum_t (s_tc - h_tc)^2 / sum_t (h_tc - mean_t h_tc)^2

States are compared channel by channel in units of the teacher's own variance: a few channels of Transformer
states are a hundred times as large as the others, and a plain squared error would see nothing else.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_LEAST_VARIANCE = 1e-6


def logit_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's next-token distribution, in nats, times T^2.

    Args:
        student: logits [positions, vocabulary], any float type.
        teacher: logits of the same shape; no gradient flows into them.
        temperature: T; above 1, unlikely tokens count more.

    Returns:
        The mean over positions, float32. T^2 keeps the size of gradients independent of T.
    """
    expected = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    found = F.log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(found, expected, reduction="batchmean", log_target=True)


def state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Unexplained share of the teacher's variance: 0 for equal states, 1 for the teacher's mean.

    Args:
        student: [positions, channels], any float type.
        teacher: of the same shape; no gradient flows into it.

    Returns:
        The mean over channels, float32.
    """
    expected = teacher.detach().float()
    variance = expected.var(dim=0, correction=0).clamp_min(_LEAST_VARIANCE)
    return ((student.float() - expected).square().mean(dim=0) / variance).mean()
