"""A linear layer of 8-bit weights whose input is rounded to 8 bit as it comes: a product of integers.

    q[r, j] = round(x[r, j] / a_r),   a_r = max_j |x[r, j]| / 127
    y[r, o] = a_r * s_o * sum_j q[r, j] * w[o, j] + b_o

Each row has its own scale a_r, so that its result never depends on the rows beside it: a clip's audio tokens
are the same in every batch. That is more accurate than one scale for all rows, too, at a few percent of time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm_compress.quantization.int8_products import Dequantized, Product, choose_product
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.quantization.rows import round_weight


class Int8Linear(PackedLinear[Product]):
    """A linear layer with 8-bit weights and, where the device has an integer product, 8-bit inputs.

    ``state_dict`` always holds the stored form: ``codes`` int8 [out, in], ``scales`` [out], ``bias`` [out] if
    there is one. Before `prepare`, weights alone are in 8 bit.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        """Make a layer with empty weights, ready for ``load_state_dict``."""
        super().__init__(in_features, out_features)
        self.kernel = self._kernel_of_stored_form()
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
        codes, scales = round_weight(weight)
        layer._hold({"codes": codes, "scales": scales})
        if bias is not None:
            layer.bias = bias.detach().clone()
        return layer

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

    def dense(self) -> Tensor:
        """The weights as a matrix [out, in]."""
        stored = self.stored()
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

    def _choose_kernel(self) -> tuple[Product, str]:
        return choose_product((self.out_features, self.in_features), self.get_buffer("scales").device)

    def _kernel_of_stored_form(self) -> Product:
        return Dequantized()

    def __getstate__(self) -> dict[str, Any]:
        """For copying and pickling, which opaque tensors cannot do: the stored form."""
        stored = {**self.stored(), "bias": self.bias}
        return {**self.__dict__, "_buffers": stored, "kernel": self._kernel_of_stored_form()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Prepare again what was prepared."""
        super().__setstate__(state)
        if self._prepared:
            self.prepare()
