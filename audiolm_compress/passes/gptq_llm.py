"""GPTQ for a plain causal LM and calibration text, where there is no audio and no recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import PassReport, Progress, Silent
from audiolm_compress.passes.gptq_report import gptq_report
from audiolm_compress.passes.part_calibration import evaluating
from audiolm_compress.quantization.blocks import find_blocks
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.layerwise import Options, quantize_blocks
from audiolm_compress.quantization.modules import module_bytes


def quantize_llm(
    model: nn.Module,
    token_batches: Iterable[Tensor | Mapping[str, Tensor]],
    *,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    progress: Progress | None = None,
) -> PassReport:
    """Quantise the blocks of a plain causal LM of transformers in place; embedding and head stay as they are.

    Args:
        model: any ``AutoModelForCausalLM`` whose blocks hold ``nn.Linear`` layers.
        token_batches: calibration text: token ids [length] or [batch, length], or dictionaries with
            ``input_ids`` and, where there is padding, ``attention_mask``.
        bits: 2, 3, 4 or 8.
        group_size: inputs that share a scale, -1 for whole rows.
        symmetric: grids without stored zero points.
        progress: shows one step a block.

    Returns:
        Errors of every layer, GPTQ's and plain rounding's; bytes before and after; kernels.

    Raises:
        PassError: unsupported model or settings, or too little calibration data.

    Example:
        >>> batches = [tokenizer(text, return_tensors="pt") for text in texts]  # doctest: +SKIP
        >>> report = quantize_llm(model, batches, bits=4, group_size=32)  # doctest: +SKIP
        >>> report.figures["error"] < report.figures["rounding_error"]  # doctest: +SKIP
        True
    """
    try:
        scheme = Scheme(bits, group_size, symmetric)
    except ValueError as error:
        raise PassError(f"quantize_llm: {error}") from error
    blocks = find_blocks(model)
    if not blocks:
        raise PassError(f"quantize_llm: {type(model).__name__} has no stack of blocks with linear layers")
    device = next(model.parameters()).device
    batches = [_token_batch(batch, device) for batch in token_batches]
    if not batches:
        raise PassError("quantize_llm: no calibration batches; give token ids")
    progress = progress or Silent()
    progress.start("gptq", len(blocks))
    before = module_bytes(model, set())
    options = Options(lambda name: scheme, model.set_submodule, advance=progress.advance)
    with evaluating(model):
        layers = quantize_blocks(
            blocks,
            lambda index: model(**batches[index], use_cache=False),
            [batch.get("attention_mask") for batch in batches],
            options,
        )
    return gptq_report(model, layers, before, module_bytes(model, set()), [])


def _token_batch(batch: Tensor | Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Arguments of the model for one calibration batch."""
    fields = batch if isinstance(batch, Mapping) else {"input_ids": batch}
    kept = {name: fields[name].to(device) for name in ("input_ids", "attention_mask") if name in fields}
    if "input_ids" not in kept:
        raise PassError(f"quantize_llm: a calibration batch needs input_ids; it has {sorted(fields)}")
    return {name: torch.atleast_2d(tensor) for name, tensor in kept.items()}
