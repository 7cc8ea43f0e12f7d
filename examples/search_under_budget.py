"""A budget in MiB instead of settings: of all configurations that fit, the one with the fewest errors.

    python examples/search_under_budget.py 20                     # `tiny`, which has 54 MiB, in 20
    python examples/search_under_budget.py 2400 --baseline salmonn.yaml --trials 30

The same command again goes on where it was cut off; in a second terminal it helps. Needs the extra [search].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml
from rich.console import Console

from audiolm_compress.search import search_recipe

RECIPE = {
    "passes": [
        {"pass": "merge_lora"},
        {"pass": "cast"},
        {"pass": "quantize_encoder", "when": {"choose": [True, False]}},
        {"pass": "gptq", "bits": {"choose": [4, 8, 3]}, "group_size": {"choose": [32, 64]}},
        {"pass": "quantize_embedding", "when": {"choose": [True, False]}},
    ],
    "data": {"test": "tiny-valid"},  # trials choose on these; the last word on the winner have the test clips
    "benchmark": {"latency": {"clips": 5, "transformers": False}, "noise_protocol": {"iterations": 10}},
    "search": {"objectives": ["wer", "weights"]},  # the first decides among those that fit
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("mib", type=float, help="most that the weights may take")
    parser.add_argument("--baseline", default="tiny", help="anything that load_model takes")
    parser.add_argument("--trials", type=int, default=8, help="configurations to measure")
    parser.add_argument(
        "--out", type=Path, default=Path("out/search_under_budget"), help="folder of the study"
    )
    parser.add_argument("--set", nargs="*", default=[], help="changes, such as benchmark.max_clips=20")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = arguments.out / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    changes = [
        f"goals.weights_gib={arguments.mib / 1024}",
        f"search.trials={arguments.trials}",
        *arguments.set,
    ]
    found = search_recipe(recipe, baseline=arguments.baseline, out=arguments.out / "study", overrides=changes)
    Console().print(found)
    if found.best is not None:
        print(f"audiolm-compress run {arguments.out}/study/best.yaml --set data.test=tiny")


if __name__ == "__main__":
    main()
