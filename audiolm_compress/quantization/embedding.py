"""An embedding in 8 bit, and the head that reads the same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from audiolm_compress.quantization.kernels import Dequantize, Int8Cpu, converted_product
from audiolm_compress.quantization.rows import round_weight

_PIECE = 16384  # rows in float32 at a time: a vocabulary of 256k would take gigabytes


class QuantizedEmbedding(nn.Module):
    """An embedding of bytes with one scale a row: ``codes`` int8 [rows, width], ``scales`` [rows].

    ``embed_scale`` multiplies what comes out (Gemma: sqrt(width)), rounded to the dtype as transformers does.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        embed_scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make an embedding with empty weights, ready for ``load_state_dict``."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.scalar_embed_scale = embed_scale
        self.codes: Tensor
        self.scales: Tensor
        self.register_buffer("codes", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(num_embeddings, dtype=dtype))

    @classmethod
    def from_weight(cls, weight: Tensor, embed_scale: float = 1.0) -> QuantizedEmbedding:
        """Round ``weight`` [rows, width] to the nearest of 255 levels a row."""
        module = cls(*weight.shape, embed_scale=embed_scale, dtype=weight.dtype)
        module.codes, module.scales = round_weight(weight)
        return module

    @property
    def embed_scale(self) -> Tensor:
        """``scalar_embed_scale`` as a tensor, as transformers' scaled embeddings have it."""
        return torch.tensor(self.scalar_embed_scale, device=self.scales.device)

    def spec(self) -> dict[str, Any]:
        """What `module_from_spec` needs to build the module again, without its weights."""
        return {
            "kind": "embedding",
            "bits": 8,
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "embed_scale": self.scalar_embed_scale,
            "dtype": str(self.scales.dtype).removeprefix("torch."),
        }

    def dense(self) -> Tensor:
        """The weights as a matrix [rows, width], without ``embed_scale``."""
        return self.codes.to(self.scales.dtype) * self.scales[:, None]

    def error(self, weight: Tensor) -> float:
        """|W - Q|^2 / |W|^2 for what was ``weight``."""
        lost, all_of_it = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        pieces = zip(
            weight.detach().split(_PIECE), self.codes.split(_PIECE), self.scales.split(_PIECE), strict=True
        )
        for part, codes, scales in pieces:
            values = part.float()
            all_of_it += values.square().sum().cpu()
            lost += (values - (codes.to(scales.dtype) * scales[:, None]).float()).square().sum().cpu()
        return float(lost / all_of_it.clamp(min=1e-30))

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
        """Read from ``embedding``; kept in a tuple, as a child module would be saved twice."""
        self._source = (embedding,)

    @property
    def embedding(self) -> QuantizedEmbedding:
        """The embedding whose weights are read.

        Raises:
            RuntimeError: none is connected yet.
        """
        (embedding,) = self._source
        if embedding is None:
            raise RuntimeError(f"no {self.embedding_name} is connected to the tied head; call tie_heads")
        return embedding

    def prepare(self) -> str:
        """Nothing to rearrange; the warning that is due for the head's kernel, "" if there is none."""
        if self.kernel_name == Int8Cpu.name:
            return ""
        return (
            f"8 bit head, {self.embedding.scales.dtype} on {self.embedding.scales.device.type}: weights are "
            "converted at every use, which may be slower than 16 bit"
        )

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
        if self.kernel_name == Int8Cpu.name and len(rows) <= Int8Cpu.few_rows and not rows.requires_grad:
            y = torch._weight_int8pack_mm(rows.contiguous(), embedding.codes, embedding.scales)
        else:
            y = converted_product(rows, embedding.codes, embedding.scales)
        return y.view(*x.shape[:-1], embedding.num_embeddings)
