"""YAMNet, the teacher of the tiny BEATs: MobileNet v1 that finds 521 AudioSet classes in 0.96 s patches.

The weights are a safetensors file with batch norm folded in (``first``, ``blocks.N.dw``, ``blocks.N.pw``,
``classifier``); one way to obtain them is the Apache-2.0 model of the TensorFlow models repository, converted
layer by layer.

    teacher = load_yamnet("yamnet.safetensors")
    embeddings, logits = teacher(patches(waveforms))      # [patches, 3, 1024], [patches, 521]
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

PATCH_FRAMES = 96
STEPS_PER_PATCH = 3  # embeddings every 0.32 s
CLASSES = 521
WIDTH = 1024

_FRAME_LENGTH, _FRAME_SHIFT, _FFT_SIZE, _MEL_BINS = 400, 160, 512, 64
_BLOCKS = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024)]


class Yamnet(nn.Module):
    """Log-mel patches [patches, 96, 64] to embeddings [patches, 3, 1024] and class logits [patches, 521]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, stride=2)
        self.blocks = nn.ModuleList()
        channels = 32
        for stride, outputs in _BLOCKS:
            depthwise = nn.Conv2d(channels, channels, 3, stride=stride, groups=channels)
            self.blocks.append(nn.ModuleDict({"dw": depthwise, "pw": nn.Conv2d(channels, outputs, 1)}))
            channels = outputs
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """``patches`` as :func:`patches` makes them, float32."""
        x = _same(self.first, patches.unsqueeze(1)).relu()
        for block in self.blocks:
            x = block["pw"](_same(block["dw"], x).relu()).relu()
        steps = x.mean(dim=3).transpose(1, 2)
        return steps, self.classifier(steps.mean(dim=1))


def load_yamnet(path: str | Path) -> Yamnet:
    """The teacher in float32 and eval mode."""
    model = Yamnet().eval().requires_grad_(False)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model


def patches(waveforms: Tensor) -> Tensor:
    """Adjacent log-mel patches of 0.96 s: waveforms [batch, samples] to [batch, patches, 96, 64].

    Frames of 25 ms every 10 ms; those that do not fill a patch are dropped.
    """
    frames = waveforms.unfold(1, _FRAME_LENGTH, _FRAME_SHIFT)
    window = torch.hann_window(_FRAME_LENGTH, periodic=True)
    magnitude = torch.fft.rfft(frames * window, n=_FFT_SIZE).abs()
    mel = torch.log(magnitude @ _mel_matrix() + 0.001)
    count = mel.shape[1] // PATCH_FRAMES
    return mel[:, : count * PATCH_FRAMES].unflatten(1, (count, PATCH_FRAMES))


def _same(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """TensorFlow's SAME padding: with stride 2 on an even size, only the end is padded."""
    padding: list[int] = []
    for size, kernel, stride in zip(
        reversed(x.shape[2:]), reversed(conv.kernel_size), reversed(conv.stride), strict=True
    ):
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        padding += [total // 2, total - total // 2]
    return conv(F.pad(x, padding))


@lru_cache(maxsize=1)
def _mel_matrix() -> Tensor:
    """64 triangles between 125 and 7500 Hz, HTK mel scale, [257, 64]."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    low, high = mel(torch.tensor([125.0, 7500.0], dtype=torch.float64))
    edges = torch.linspace(low.item(), high.item(), _MEL_BINS + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0.0, 8000.0, _FFT_SIZE // 2 + 1, dtype=torch.float64))[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    triangles[0] = 0.0
    return triangles.float()
