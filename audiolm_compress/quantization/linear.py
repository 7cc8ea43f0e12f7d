"""A linear layer whose packed weights are the only copy in memory."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audiolm_compress.quantization.grids import Grid, Scheme
from audiolm_compress.quantization.kernel_choice import choose_kernel
from audiolm_compress.quantization.kernels import Dequantize, Kernel, Shape, scales_to_store
from audiolm_compress.quantization.packed_linear import PackedLinear
from audiolm_compress.quantization.packing import pack, packed_rows


class QuantizedLinear(PackedLinear[Kernel]):
    """A linear layer with packed weights.

    ``state_dict`` always holds the stored form: ``qweight`` int32 [words, out] (see `packing`), ``scales``
    [groups, out] or, for progressive schemes, the units [1, out] and ``multiples`` int8 [groups, out];
    ``qzeros`` int32 [groups, words] unless symmetric, ``bias`` [out] if there is one, ``outliers`` int64
    [count] if calibration has found inputs to be multiplied with more than 8 bits.
    """

    not_weights: ClassVar[tuple[str, ...]] = ("bias", "outliers")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: Scheme,
        *,
        bias: bool,
        dtype: torch.dtype = torch.float32,
        activations: int = 16,
        outliers: int = 0,
    ) -> None:
        """Make a layer with empty weights, ready for ``load_state_dict``.

        ``activations`` are the bits of the inputs where several positions are computed at once: 8 lets
        kernels round them to 255 levels a position for products of integers, all but ``outliers`` of them,
        which get 15 bits.
        """
        super().__init__(in_features, out_features)
        self.scheme, self.activations = scheme, activations
        self.kernel = self._kernel_of_stored_form()
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(out_features, dtype=dtype) if bias else None)
        self.outliers: Tensor | None
        self.register_buffer("outliers", torch.zeros(outliers, dtype=torch.int64) if outliers else None)
        self._hold(self._empty(dtype, torch.get_default_device()))

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        grid: Grid,
        scheme: Scheme,
        bias: Tensor | None,
        dtype: torch.dtype,
        activations: int = 16,
        outliers: Tensor | None = None,
    ) -> QuantizedLinear:
        """Pack ``codes`` uint8 [out, in] on ``grid``; ``dtype`` is that of scales and activations.

        ``outliers`` are numbers of inputs, int64.
        """
        layer = cls(
            codes.shape[1],
            codes.shape[0],
            scheme,
            bias=bias is not None,
            dtype=dtype,
            activations=activations,
        )
        unit = None if grid.unit is None else grid.unit.to(dtype)
        stored = {"qweight": pack(codes.T, scheme.bits)} | scales_to_store(grid.scales.to(dtype), unit)
        if not scheme.symmetric:
            stored["qzeros"] = pack(grid.zeros.T.to(torch.uint8), scheme.bits).T.contiguous()
        layer._hold(stored)
        if bias is not None:
            layer.bias = bias.detach().clone().to(dtype)
        layer.outliers = outliers
        return layer

    @property
    def shape(self) -> Shape:
        """What a kernel must know."""
        return Shape(self.in_features, self.out_features, self.scheme, self.activations)

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the layer again, without its weights."""
        return {
            "kind": "linear",
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bits": self.scheme.bits,
            "group_size": self.scheme.group_size,
            "symmetric": self.scheme.symmetric,
            "progressive": self.scheme.progressive,
            "bias": self.bias is not None,
            "dtype": str(self.dtype).removeprefix("torch."),
            "activations": self.activations,
            "outliers": 0 if self.outliers is None else len(self.outliers),
        }

    def dense(self) -> Tensor:
        """The weights as a matrix [out, in]."""
        return self.kernel.dense(self._weights())

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., positions, in] -> [..., positions, out].

        A length of one in three or more dimensions, or a lone vector, are single positions: their inputs are
        never rounded to 8 bit. Rows in two dimensions are the positions of one sequence.
        """
        buffers = self._weights()
        rows = x.to(buffers["scales"].dtype).reshape(-1, self.in_features)
        if x.requires_grad and torch.is_grad_enabled():  # the packed products have no backward
            y = nn.functional.linear(rows, self.dense())
        else:
            y = self.kernel.linear(buffers, rows, single=x.dim() == 1 or (x.dim() > 2 and x.shape[-2] == 1))
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes, format and kernel."""
        return (
            f"{self.in_features}, {self.out_features}, bits={self.scheme.bits}, "
            f"group_size={self.scheme.group_size}, kernel={self.kernel.name}"
        )

    def _empty(self, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """The stored form, all zeros."""
        scheme, groups = self.scheme, self.scheme.groups(self.in_features)
        rows = packed_rows(self.in_features, scheme.bits)
        stored = {
            "qweight": torch.zeros(rows, self.out_features, dtype=torch.int32, device=device),
            "scales": torch.zeros(
                1 if scheme.progressive else groups, self.out_features, dtype=dtype, device=device
            ),
        }
        if scheme.progressive:
            stored["multiples"] = torch.zeros(groups, self.out_features, dtype=torch.int8, device=device)
        if not scheme.symmetric:
            words = packed_rows(self.out_features, scheme.bits)
            stored["qzeros"] = torch.zeros(groups, words, dtype=torch.int32, device=device)
        return stored

    def _choose_kernel(self) -> tuple[Kernel, str]:
        return choose_kernel(self.shape, self.get_buffer("scales").device, self.dtype)

    def _kernel_of_stored_form(self) -> Kernel:
        return Dequantize(self.shape)
