"""What the package shows to the outside, what it costs to import, and which module may use which."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import audiolm_compress

PACKAGE = Path(audiolm_compress.__file__).parent

# Each layer may use those above it and itself.
LAYERS = (
    {"errors", "faults", "settings", "folders", "locked", "devices", "untrusted"},
    {"data", "metrics", "pruning", "quantization", "runtime"},
    {"salmonn"},
    {"training", "planning"},
    {"passes", "measurement"},
    {"recipe", "recipe_source", "recipe_choices", "recipe_errors", "recipe_sections", "recipe_steps"},
    {"report"},
    {
        "pipeline",
        "pass_loop",
        "planner",
        "rehearsal",
        "comparison",
        "run_data",
        "reload_check",
        "fair_baseline",
    }
    | {"kept_stages", "stage_keys", "run_output"},
    {"search", "doctor", "export"},
    {"publish"},
    {"cli"},
    {"__main__"},
)
HEAVY = {"torch", "transformers", "peft", "numpy", "pydantic", "yaml", "rich", "soundfile"}

PUBLIC = [
    "AudioTokenRate",
    "Benchmark",
    "CachePrompt",
    "Cast",
    "ComputePositions",
    "DecodeSearch",
    "Distill",
    "DropAudioEncoder",
    "Gptq",
    "LayerDrop",
    "LoraRecovery",
    "LowRank",
    "MergeLora",
    "Plan",
    "PromptSearch",
    "PruneWidth",
    "QuantizeEmbedding",
    "QuantizeEncoder",
    "Recipe",
    "Report",
    "Result",
    "Salmonn",
    "ScaleRecovery",
    "UnpadAudio",
    "VocabTrim",
    "apply_recipe",
    "benchmark",
    "compare",
    "load_model",
    "load_recipe",
    "plan",
    "quantize_llm",
    "rehearse",
]


def test_public_names_are_pinned_and_exist() -> None:
    assert audiolm_compress.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(audiolm_compress, name).__name__ == name
    assert set(PUBLIC) <= set(dir(audiolm_compress))
    with pytest.raises(AttributeError, match="no attribute 'apply_recipes'"):
        audiolm_compress.apply_recipes  # noqa: B018


@pytest.mark.parametrize(
    ("script", "allowed"),
    [("import audiolm_compress", set()), ("import audiolm_compress.cli", set())],
)
def test_importing_is_light(script: str, allowed: set[str]) -> None:
    """Loaded modules, not seconds: the same on every machine. Torch alone takes over a second."""
    script += (
        "; import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & HEAVY == allowed


def imported(file: Path) -> set[str]:
    """Top modules of this package that a file imports when it is loaded, so not inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        for inner in ast.walk(node)
        if inner is not node
    }
    names = []
    for node in ast.walk(tree):
        if node in lazy:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("audiolm_compress.")]
    return {part[1] for part in parts if not part[1].startswith("__version")}


def test_imports_point_one_way() -> None:
    rank = {name: level for level, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        here = file.relative_to(PACKAGE).with_suffix("").parts[0]
        if here == "__init__":
            continue
        for used in imported(file) - {here}:
            if rank[used] > rank[here]:
                wrong.append(f"{file.relative_to(PACKAGE)} uses {used}")
    assert wrong == []
