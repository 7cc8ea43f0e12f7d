"""Modules whose packed weights are the only copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.quantization.grids import Grid, Scheme
from audiolm_compress.quantization.kernels import Dequantize, Int8Cpu, Kernel, Shape, choose_kernel
from audiolm_compress.quantization.packing import pack, packed_rows

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class QuantizedLinear(nn.Module):
    """A linear layer with packed weights.

    ``state_dict`` always holds the stored form: ``qweight`` int32 [words, out] (see `packing`), ``scales``
    [groups, out], ``qzeros`` int32 [groups, words] unless symmetric, ``bias`` [out] if there is one. `prepare`
    rearranges it in place for the device's best kernel; moving or casting the module does so again.
    """

    def __init__(
        self, in_features: int, out_features: int, scheme: Scheme, *, bias: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        """Make a layer with empty weights, ready for ``load_state_dict``."""
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        self.kernel: Kernel = Dequantize()
        self.register_buffer("bias", torch.zeros(out_features, dtype=dtype) if bias else None)
        self._hold(self._empty(dtype, torch.device("cpu")))

    @classmethod
    def from_codes(
        cls, codes: Tensor, grid: Grid, scheme: Scheme, bias: Tensor | None, dtype: torch.dtype
    ) -> QuantizedLinear:
        """Pack ``codes`` uint8 [out, in] on ``grid``; scales are kept in ``dtype``, that of the activations."""
        layer = cls(codes.shape[1], codes.shape[0], scheme, bias=bias is not None, dtype=dtype)
        stored = {"qweight": pack(codes.T, scheme.bits), "scales": grid.scales.to(dtype).contiguous()}
        if not scheme.symmetric:
            stored["qzeros"] = pack(grid.zeros.T.to(torch.uint8), scheme.bits).T.contiguous()
        layer._hold(stored)
        if bias is not None:
            layer.bias = bias.detach().clone().to(dtype)
        return layer

    @property
    def shape(self) -> Shape:
        """What a kernel must know."""
        return Shape(self.in_features, self.out_features, self.scheme)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of scales and activations."""
        return self._buffer("scales").dtype

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the layer again, without its weights."""
        return {
            "kind": "linear", "in_features": self.in_features, "out_features": self.out_features,
            "bits": self.scheme.bits, "group_size": self.scheme.group_size, "symmetric": self.scheme.symmetric,
            "bias": self.bias is not None, "dtype": str(self.dtype).removeprefix("torch."),
        }

    def prepare(self) -> str:
        """Rearrange the weights for the best kernel on their device; return its warning, "" if there is none."""
        stored = self._stored()
        kernel, warning = choose_kernel(self.shape, stored["scales"].device, stored["scales"].dtype)
        self._hold(kernel.arrange(self.shape, stored))
        self.kernel = kernel
        return warning

    def dense(self) -> Tensor:
        """The weights as a matrix [out, in]."""
        return self.kernel.dense(self.shape, self._held())

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        rows = x.to(self.dtype).reshape(-1, self.in_features)
        if torch.is_grad_enabled() and x.requires_grad:  # the packed products have no backward
            y = nn.functional.linear(rows, self.dense())
        else:
            y = self.kernel.linear(self.shape, self._held(), rows)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes, format and kernel."""
        return (f"{self.in_features}, {self.out_features}, bits={self.scheme.bits}, "
                f"group_size={self.scheme.group_size}, kernel={self.kernel.name}")

    def _empty(self, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """The stored form, all zeros."""
        scheme, groups = self.scheme, self.scheme.groups(self.in_features)
        rows = packed_rows(self.in_features, scheme.bits)
        stored = {"qweight": torch.zeros(rows, self.out_features, dtype=torch.int32, device=device),
                  "scales": torch.zeros(groups, self.out_features, dtype=dtype, device=device)}
        if not scheme.symmetric:
            words = packed_rows(self.out_features, scheme.bits)
            stored["qzeros"] = torch.zeros(groups, words, dtype=torch.int32, device=device)
        return stored

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def _held(self) -> dict[str, Tensor]:
        """The kernel's buffers."""
        return {name: tensor for name, tensor in self._buffers.items() if name != "bias" and tensor is not None}

    def _hold(self, buffers: dict[str, Tensor]) -> None:
        """Make ``buffers`` the weights, and nothing else."""
        for name in list(self._held()):
            delattr(self, name)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def _stored(self) -> dict[str, Tensor]:
        return self.kernel.restore(self.shape, self._held())

    def _unprepare(self) -> bool:
        """Go back to the stored form; tell whether the layer was prepared."""
        prepared = not isinstance(self.kernel, Dequantize)
        self._hold(self._stored())
        self.kernel = Dequantize()
        return prepared

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        prepared = self._unprepare()
        super()._apply(fn, recurse)
        if prepared:
            self.prepare()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._stored().items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        prepared = self._unprepare()
        super()._load_from_state_dict(*args, **kwargs)
        if prepared:
            self.prepare()


class QuantizedEmbedding(nn.Module):
    """An embedding of bytes with one scale a row: ``codes`` int8 [rows, width], ``scales`` [rows].

    ``embed_scale`` multiplies what comes out (Gemma: sqrt(width)), rounded to the dtype as transformers does.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, embed_scale: float = 1.0, dtype: torch.dtype = torch.float32
    ) -> None:
        """Make an embedding with empty weights, ready for ``load_state_dict``."""
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.scalar_embed_scale = num_embeddings, embedding_dim, embed_scale
        self.codes: Tensor
        self.scales: Tensor
        self.register_buffer("codes", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(num_embeddings, dtype=dtype))

    @classmethod
    def from_weight(cls, weight: Tensor, embed_scale: float = 1.0) -> QuantizedEmbedding:
        """Round ``weight`` [rows, width] to the nearest of 255 levels a row."""
        module = cls(*weight.shape, embed_scale=embed_scale, dtype=weight.dtype)
        weight = weight.detach()
        scales = (weight.float().abs().amax(1) / 127).to(weight.dtype)
        scales = torch.where(scales == 0, torch.ones_like(scales), scales)
        codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        for rows in torch.arange(len(weight)).split(16384):  # a 256k vocabulary in float32 would take gigabytes
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            codes[part] = (weight[part].float() / scales[part, None].float()).round_().clamp_(-127, 127).to(torch.int8)
        module.codes, module.scales = codes, scales
        return module

    @property
    def embed_scale(self) -> Tensor:
        """``scalar_embed_scale`` as a tensor, as transformers' scaled embeddings have it."""
        return torch.tensor(self.scalar_embed_scale, device=self.scales.device)

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the module again, without its weights."""
        return {"kind": "embedding", "bits": 8, "num_embeddings": self.num_embeddings,
                "embedding_dim": self.embedding_dim, "embed_scale": self.scalar_embed_scale,
                "dtype": str(self.scales.dtype).removeprefix("torch.")}

    def dense(self) -> Tensor:
        """The weights as a matrix [rows, width], without ``embed_scale``."""
        return self.codes.to(self.scales.dtype) * self.scales[:, None]

    def forward(self, ids: Tensor) -> Tensor:
        """``ids`` [...] -> [..., width]."""
        rows = self.codes[ids].to(self.scales.dtype) * self.scales[ids][..., None]
        if self.scalar_embed_scale == 1.0:
            return rows
        return rows * self.embed_scale.to(rows.dtype)


class TiedHead(nn.Module):
    """The LM head that reads the weights of a `QuantizedEmbedding`; it owns none and saves none.

    A head built from its spec is connected by `tie_heads` once the whole model stands.
    """

    def __init__(self, embedding_name: str, embedding: QuantizedEmbedding | None = None) -> None:
        """Refer to ``embedding``, which is found under ``embedding_name`` in the model."""
        super().__init__()
        self.embedding_name = embedding_name
        self.connect(embedding)

    def connect(self, embedding: QuantizedEmbedding | None) -> None:
        """Read from ``embedding``; not registered as a child, which would save its weights twice."""
        object.__setattr__(self, "embedding", embedding)

    def prepare(self) -> str:
        """Nothing to rearrange; the warning that is due for the head's kernel, "" if there is none."""
        if self.kernel_name == Int8Cpu.name:
            return ""
        return (f"8 bit head, {self.embedding.scales.dtype} on {self.embedding.scales.device.type}: weights are "
                "converted at every use, which may be slower than 16 bit")

    @property
    def kernel_name(self) -> str:
        """What computes the logits of few rows."""
        codes, scales = self.embedding.codes, self.embedding.scales
        fast = codes.device.type == "cpu" and scales.dtype == torch.bfloat16 and codes.shape[1] % 32 == 0
        return Int8Cpu.name if fast else Dequantize.name

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs."""
        return {"kind": "tied_head", "bits": 8, "embedding": self.embedding_name}

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., width] -> logits [..., rows]."""
        embedding = self.embedding
        rows = x.reshape(-1, embedding.embedding_dim)
        if self.kernel_name != "dequantize" and len(rows) <= Int8Cpu.few_rows and not rows.requires_grad:
            y = torch._weight_int8pack_mm(rows.contiguous(), embedding.codes, embedding.scales)
        else:
            y = nn.functional.linear(rows, embedding.codes.to(rows.dtype)) * embedding.scales
        return y.view(*x.shape[:-1], embedding.num_embeddings)


def module_from_spec(spec: dict[str, Any]) -> nn.Module:
    """An empty module as described by its ``spec()``.

    Raises:
        ValueError: an unknown kind.
    """
    if spec["kind"] == "linear":
        scheme = Scheme(spec["bits"], spec["group_size"], spec["symmetric"])
        return QuantizedLinear(spec["in_features"], spec["out_features"], scheme, bias=spec["bias"],
                               dtype=_DTYPES[spec["dtype"]])
    if spec["kind"] == "embedding":
        return QuantizedEmbedding(spec["num_embeddings"], spec["embedding_dim"], embed_scale=spec["embed_scale"],
                                  dtype=_DTYPES[spec["dtype"]])
    if spec["kind"] == "tied_head":
        return TiedHead(spec["embedding"])
    raise ValueError(f"unknown kind of module: {spec['kind']!r}")


def tie_heads(model: nn.Module) -> None:
    """Connect each `TiedHead` of ``model`` with the embedding that its spec names."""
    for head in [module for module in model.modules() if isinstance(module, TiedHead)]:
        embedding = model.get_submodule(head.embedding_name)
        if not isinstance(embedding, QuantizedEmbedding):
            raise ValueError(f"{head.embedding_name} is no quantised embedding; the head cannot be tied to it")
        head.connect(embedding)


def quantized_linears(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    """Names and modules of the quantised linear layers."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            yield name, module


def prepare_modules(model: nn.Module) -> list[str]:
    """Prepare every quantised layer for its device; the distinct warnings, each with its number of layers."""
    counts: dict[str, int] = {}
    for layer in [module for module in model.modules() if isinstance(module, QuantizedLinear | TiedHead)]:
        warning = layer.prepare()
        if warning:
            counts[warning] = counts.get(warning, 0) + 1
    return [f"{count} layers, {warning}" for warning, count in counts.items()]


def kernel_report(model: nn.Module) -> dict[str, int]:
    """Number of quantised layers by the kernel that computes them."""
    names = [layer.kernel.name for _, layer in quantized_linears(model)]
    names += [module.kernel_name for module in model.modules() if isinstance(module, TiedHead)]
    return {name: names.count(name) for name in sorted(set(names))}
