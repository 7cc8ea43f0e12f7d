"""A linear layer of 8-bit weights whose input is rounded to 8 bit as it comes: a product of integers.

    q[r, j] = round(x[r, j] / a_r),   a_r = max_j |x[r, j]| / 127
    y[r, o] = a_r * s_o * sum_j q[r, j] * w[o, j] + b_o

Each row has its own scale a_r, so that its result never depends on the rows beside it: a clip's audio tokens
are the same in every batch. That is more accurate than one scale for all rows, too, at a few percent of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.quantization.int8_products import LEVELS, Dequantized, Product, choose_product


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights and, where the device has an integer product, 8-bit inputs.

    ``state_dict`` always holds the stored form: ``codes`` int8 [out, in], ``scales`` [out], ``bias`` [out] if
    there is one. `prepare` rearranges the codes for the device's product, which is then the only copy in
    memory; moving or casting the module does so again. Before it, weights alone are in 8 bit.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        """Make a layer with empty weights, ready for ``load_state_dict``."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.kernel: Product = Dequantized()
        self._prepared = False
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(out_features, dtype=dtype) if bias else None)
        codes = torch.zeros(out_features, in_features, dtype=torch.int8)
        self._hold({"codes": codes, "scales": torch.zeros(out_features, dtype=dtype)})

    @classmethod
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear) -> Int8Linear:
        """Round each output's weights to the nearest of 255 levels; `prepare` is still due."""
        weight, bias = linear.weight, linear.bias
        layer = cls(linear.in_features, linear.out_features, bias=bias is not None, dtype=weight.dtype)
        scales = (weight.float().abs().amax(1) / LEVELS).to(weight.dtype)
        scales = torch.where(scales == 0, torch.ones_like(scales), scales)
        codes = (weight.float() / scales.float()[:, None]).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)
        layer._hold({"codes": codes, "scales": scales})
        if bias is not None:
            layer.bias = bias.detach().clone()
        return layer

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of scales and bias."""
        return self.get_buffer("scales").dtype

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the layer again, without its weights."""
        return {
            "kind": "int8_linear",
            "bits": 8,
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def prepare(self) -> str:
        """Rearrange the weights for their device's product; return its warning, "" if there is none."""
        kernel, warning = choose_product(
            (self.out_features, self.in_features), self.get_buffer("scales").device
        )
        if self._prepared and type(kernel) is type(self.kernel):  # what moves or casts prepares anew
            return warning
        self._hold(kernel.arrange(**self._stored()))
        self.kernel, self._prepared = kernel, True
        return warning

    def dense(self) -> Tensor:
        """The weights as a matrix [out, in]."""
        stored = self._stored()
        return stored["codes"].to(self.dtype) * stored["scales"][:, None]

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out] in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if x.requires_grad and torch.is_grad_enabled():  # products of integers have no backward
            y = F.linear(rows, self.dense().to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        else:
            y = self.kernel.linear(self._weights(), rows, self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes and product."""
        return f"{self.in_features}, {self.out_features}, kernel={self.kernel.name}"

    def _weights(self) -> dict[str, Tensor]:
        return self._buffers  # type: ignore[return-value]  # the bias, which may be None, is passed apart

    def _hold(self, buffers: dict[str, Tensor]) -> None:
        """Make ``buffers`` the weights, and nothing else."""
        for name in [name for name in self._buffers if name != "bias"]:
            delattr(self, name)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def _stored(self) -> dict[str, Tensor]:
        return {"codes": self.kernel.codes(self._weights()), "scales": self.get_buffer("scales")}

    @contextmanager
    def _in_stored_form(self) -> Iterator[None]:
        """Inside, the buffers are the stored form; a prepared layer is prepared again afterwards."""
        self._hold(self._stored())
        self.kernel = Dequantized()
        yield
        if self._prepared:
            self.prepare()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        with self._in_stored_form():
            super()._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._stored().items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._in_stored_form():
            super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """For copying and pickling, which opaque tensors cannot do: the stored form."""
        stored = {**self._stored(), "bias": self.bias}
        return {**self.__dict__, "_buffers": stored, "kernel": Dequantized()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Prepare again what was prepared."""
        super().__setstate__(state)
        if self._prepared:
            self.prepare()
