"""LoRA adapters by peft: on the LLM as a whole, and on single linear layers of any part."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from audiolm_compress.quantization.adapted import dense_weight
from audiolm_compress.quantization.packed_linear import PackedLinear

_ADAPTER = "default"


def add_lora(
    llm: PreTrainedModel,
    *,
    r: int,
    lora_alpha: int,
    lora_dropout: float,
    target_modules: Sequence[str],
    empty: bool = False,
) -> PeftModel:
    """Wrap ``llm`` with fresh adapters of rank ``r`` on the Linears named in ``target_modules``.

    ``empty`` leaves their weights on the meta device, to be filled from a file.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(target_modules),
    )
    with warnings.catch_warnings():
        # peft asks for a property that transformers 5.23 has renamed; nothing that a user could change.
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
        )
        model = get_peft_model(llm, config, low_cpu_mem_usage=empty)
    assert isinstance(model, PeftModel)
    return model


def describe_lora(llm: Any) -> dict[str, Any] | None:
    """The arguments with which :func:`add_lora` builds equal adapters; None without adapters."""
    if not isinstance(llm, PeftModel):
        return None
    config = llm.peft_config[_ADAPTER]
    assert isinstance(config, LoraConfig)
    return {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": sorted(config.target_modules or ()),
    }


def adapt_layer(
    layer: nn.Linear | PackedLinear[Any],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    use_rslora: bool,
    use_dora: bool,
    rng: torch.Generator,
) -> LoraLinear:
    """Put a fresh adapter, which changes nothing yet, around a plain or packed layer, for training.

    DoRA reads the weights as a matrix at every step, so a packed layer is then stood in for by a plain one.

    Args:
        layer: stays as it is.
        rank: of the factors, which are float32 whatever the layer's dtype.
        alpha: the adapter is multiplied by alpha / rank.
        dropout: of the adapter's input.
        use_rslora: multiply by alpha / sqrt(rank) instead.
        use_dora: train the lengths of the rows, too.
        rng: draws the factor A (uniform, as peft does); B is zero.
    """
    if use_dora and isinstance(layer, PackedLinear):
        layer = _plain(layer)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=use_rslora, use_dora=use_dora
    )
    kind = _PackedLora if isinstance(layer, PackedLinear) else LoraLinear
    adapted = kind(layer, _ADAPTER, config, r=rank, lora_alpha=alpha)
    device = layer.get_buffer("scales").device if isinstance(layer, PackedLinear) else layer.weight.device
    for child in (adapted.lora_A, adapted.lora_B, adapted.lora_magnitude_vector):
        child.to(device, torch.float32)
    factor = adapted.lora_A[_ADAPTER].weight
    drawn = nn.init.kaiming_uniform_(torch.empty(factor.shape), a=5**0.5, generator=rng)
    with torch.no_grad():
        factor.copy_(drawn)
    return adapted


def adapter_factors(adapted: LoraLinear) -> tuple[Tensor, Tensor, Tensor | None]:
    """What was trained: A [rank, in], B [out, rank] with LoRA's factor inside, and DoRA's lengths [out]."""
    a = adapted.lora_A[_ADAPTER].weight.detach()
    b = adapted.lora_B[_ADAPTER].weight.detach() * adapted.scaling[_ADAPTER]
    dora = _ADAPTER in adapted.lora_magnitude_vector
    return a, b, adapted.lora_magnitude_vector[_ADAPTER].weight.detach() if dora else None


class _PackedLora(LoraLinear):
    """peft's layer around one whose sizes peft would only guess, with a warning."""

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        assert isinstance(module, PackedLinear)
        return module.in_features, module.out_features


def _plain(layer: PackedLinear[Any]) -> nn.Linear:
    """A frozen plain layer of the same weights, in the dtype of the scales."""
    weight, bias = dense_weight(layer), layer._buffers["bias"]
    plain = nn.utils.skip_init(
        nn.Linear,
        layer.in_features,
        layer.out_features,
        bias=bias is not None,
        device=weight.device,
        dtype=layer.dtype,
    )
    with torch.no_grad():
        plain.weight.copy_(weight)
        if bias is not None:
            plain.bias.copy_(bias)
    return plain.requires_grad_(False)
