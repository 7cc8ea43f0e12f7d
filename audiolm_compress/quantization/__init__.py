"""Quantised weights: grids, GPTQ, packed modules and their kernels. Knows nothing of recipes."""

from audiolm_compress.quantization.dynamic_int8 import Int8Linear
from audiolm_compress.quantization.embedding import QuantizedEmbedding, TiedHead
from audiolm_compress.quantization.grids import Scheme
from audiolm_compress.quantization.linear import QuantizedLinear
from audiolm_compress.quantization.modules import kernel_report, module_from_spec, prepare_modules, tie_heads

__all__ = [
    "Int8Linear",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "Scheme",
    "TiedHead",
    "kernel_report",
    "module_from_spec",
    "prepare_modules",
    "tie_heads",
]
