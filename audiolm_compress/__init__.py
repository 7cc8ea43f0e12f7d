"""Compress SALMONN audio language models by recipes, and prove the result.

    from audiolm_compress import apply_recipe
    result = apply_recipe("recipes/gemma2_4bit.yaml")
    print(result.report.table())

The names below are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiolm_compress.comparison import benchmark as benchmark
    from audiolm_compress.passes import AudioTokenRate as AudioTokenRate
    from audiolm_compress.passes import CachePrompt as CachePrompt
    from audiolm_compress.passes import Cast as Cast
    from audiolm_compress.passes import ComputePositions as ComputePositions
    from audiolm_compress.passes import DecodeSearch as DecodeSearch
    from audiolm_compress.passes import Distill as Distill
    from audiolm_compress.passes import DropAudioEncoder as DropAudioEncoder
    from audiolm_compress.passes import Gptq as Gptq
    from audiolm_compress.passes import LayerDrop as LayerDrop
    from audiolm_compress.passes import LoraRecovery as LoraRecovery
    from audiolm_compress.passes import LowRank as LowRank
    from audiolm_compress.passes import MergeLora as MergeLora
    from audiolm_compress.passes import PromptSearch as PromptSearch
    from audiolm_compress.passes import PruneWidth as PruneWidth
    from audiolm_compress.passes import QuantizeEmbedding as QuantizeEmbedding
    from audiolm_compress.passes import QuantizeEncoder as QuantizeEncoder
    from audiolm_compress.passes import ScaleRecovery as ScaleRecovery
    from audiolm_compress.passes import UnpadAudio as UnpadAudio
    from audiolm_compress.passes import VocabTrim as VocabTrim
    from audiolm_compress.passes.gptq_llm import quantize_llm as quantize_llm
    from audiolm_compress.pipeline import Result as Result
    from audiolm_compress.pipeline import apply_recipe as apply_recipe
    from audiolm_compress.planner import Plan as Plan
    from audiolm_compress.planner import plan as plan
    from audiolm_compress.recipe import Recipe as Recipe
    from audiolm_compress.recipe import load_recipe as load_recipe
    from audiolm_compress.rehearsal import rehearse as rehearse
    from audiolm_compress.report.benchmark import Benchmark as Benchmark
    from audiolm_compress.report.compare import compare as compare
    from audiolm_compress.report.report import Report as Report
    from audiolm_compress.salmonn.load import load_model as load_model
    from audiolm_compress.salmonn.model import Salmonn as Salmonn

__version__ = "0.1.0"

_HOME = {
    "AudioTokenRate": "passes",
    "Benchmark": "report.benchmark",
    "CachePrompt": "passes",
    "Cast": "passes",
    "ComputePositions": "passes",
    "DecodeSearch": "passes",
    "Distill": "passes",
    "DropAudioEncoder": "passes",
    "Gptq": "passes",
    "LayerDrop": "passes",
    "LoraRecovery": "passes",
    "LowRank": "passes",
    "MergeLora": "passes",
    "Plan": "planner",
    "PromptSearch": "passes",
    "PruneWidth": "passes",
    "QuantizeEmbedding": "passes",
    "QuantizeEncoder": "passes",
    "Recipe": "recipe",
    "Report": "report.report",
    "Result": "pipeline",
    "Salmonn": "salmonn.model",
    "ScaleRecovery": "passes",
    "UnpadAudio": "passes",
    "VocabTrim": "passes",
    "apply_recipe": "pipeline",
    "benchmark": "comparison",
    "compare": "report.compare",
    "load_model": "salmonn.load",
    "load_recipe": "recipe",
    "plan": "planner",
    "quantize_llm": "passes.gptq_llm",
    "rehearse": "rehearsal",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
