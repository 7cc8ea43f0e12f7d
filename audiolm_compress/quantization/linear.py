"""A linear layer whose packed weights are the only copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.quantization.grids import Grid, Scheme
from audiolm_compress.quantization.kernel_choice import choose_kernel
from audiolm_compress.quantization.kernels import Dequantize, Kernel, Shape, scales_to_store
from audiolm_compress.quantization.packing import pack, packed_rows

_NOT_WEIGHTS = ("bias", "outliers")  # buffers that no kernel rearranges


class QuantizedLinear(nn.Module):
    """A linear layer with packed weights.

    ``state_dict`` always holds the stored form: ``qweight`` int32 [words, out] (see `packing`), ``scales``
    [groups, out] or, for progressive schemes, the units [1, out] and ``multiples`` int8 [groups, out];
    ``qzeros`` int32 [groups, words] unless symmetric, ``bias`` [out] if there is one, ``outliers`` int64
    [count] if calibration has found inputs to be multiplied with more than 8 bits.
    `prepare` rearranges it in place for the device's best kernel; moving or casting the module does so again.
    """

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
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        self.activations = activations
        self.kernel: Kernel = Dequantize(self.shape)
        self._prepared = False
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

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of scales and activations."""
        return self.get_buffer("scales").dtype

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

    def prepare(self) -> str:
        """Rearrange the weights for their device's best kernel; return its warning, "" if there is none."""
        kernel, warning = choose_kernel(self.shape, self.get_buffer("scales").device, self.dtype)
        if self._prepared and type(kernel) is type(self.kernel):  # what moves or casts prepares anew
            return warning
        self._hold(kernel.arrange(self._stored()))
        self.kernel, self._prepared = kernel, True
        return warning

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

    def _weights(self) -> dict[str, Tensor]:
        """The module's own dictionary of buffers: looking up attributes costs as much as a small product."""
        return self._buffers  # type: ignore[return-value]  # bias and outliers may be None

    def _hold(self, buffers: dict[str, Tensor]) -> None:
        """Make ``buffers`` the weights, and nothing else."""
        for name in [name for name in self._buffers if name not in _NOT_WEIGHTS]:
            delattr(self, name)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def _stored(self) -> dict[str, Tensor]:
        return self.kernel.restore(self._weights())

    @contextmanager
    def _in_stored_form(self) -> Iterator[None]:
        """Inside, the buffers are the stored form; a prepared layer is prepared again afterwards."""
        self._hold(self._stored())
        self.kernel = Dequantize(self.shape)
        yield
        if self._prepared:
            self.prepare()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        with self._in_stored_form():
            super()._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._stored().items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        for name in _NOT_WEIGHTS:
            if self._buffers[name] is not None:
                destination[prefix + name] = self._buffers[name]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._in_stored_form():
            super()._load_from_state_dict(*args, **kwargs)
