"""What training wins back: a recipe without its passes that learn, with them, and the baseline.

    python benchmarks/recovery.py [--recipe benchmarks/heal.yaml]

All three models answer the recipe's test clips in this process, one after the other, under the same decode
settings; nothing is timed but the passes. Won back is

    (hurt - healed) / (hurt - baseline)        of WER, and likewise of CIDEr-D

Writes results/recovery_tiny.json. The caption clips of training are other mixtures of the recordings that
those of the test are made of, so CIDEr-D can end above the baseline's. How much another model would win back
it does not show.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from result_file import write_result

from audiolm_compress.cli.progress import shown_progress
from audiolm_compress.data.loading import load_examples
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.quality import answer_clips
from audiolm_compress.measurement.scoring import score
from audiolm_compress.pass_loop import apply_passes
from audiolm_compress.passes.base import Progress
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.run_data import clip_source, load_calibration, load_training
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

HERE = Path(__file__).parent
RESULT = HERE / "results" / "recovery_tiny.json"


@torch.inference_mode()
def quality(model: Salmonn, recipe: Recipe, progress: Progress, name: str) -> dict[str, float]:
    clips = clip_source(recipe.data)
    examples = load_examples(clips.test, prefix=clips.prefix, channel=clips.channel).examples
    progress.start(f"{name}: answering", len(examples))
    answers = answer_clips(model, examples, recipe.benchmark, progress.advance, seed=recipe.seed)
    scores = score(list(answers.values()), recipe.seed)
    return {name: scores.scores[name].value for name in ("wer", "cider_d")}


def made(recipe: Recipe, progress: Progress, name: str) -> dict[str, Any]:
    """The scores of a recipe's model, and what each pass did."""
    model = load_model(recipe.baseline)
    calibration, training = load_calibration(recipe, progress), load_training(recipe, progress)
    steps = apply_passes(model, recipe, calibration, progress, training.examples)
    passes = [
        {
            "pass": step.name,
            "summary": step.summary,
            "seconds": round(step.seconds, 1),
            "bytes": sum(step.weight_bytes.values()),
        }
        for step in steps
    ]
    return quality(model, recipe, progress, name) | {"passes": passes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default=str(HERE / "heal.yaml"))
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    hurting = recipe.model_copy(update={"passes": tuple(p for p in recipe.passes if not p.learns)})
    if hurting.passes == recipe.passes:
        raise SystemExit(f"{args.recipe} has no pass that learns")
    begin = time.monotonic()
    with shown_progress() as progress:
        baseline = quality(load_model(recipe.baseline), recipe, progress, "baseline")
        hurt = made(hurting, progress, "hurt")
        healed = made(recipe, progress, "healed")
    won = {
        name: (hurt[name] - healed[name]) / (hurt[name] - baseline[name])  # type: ignore[operator]
        for name in baseline
    }
    learning = {entry.kind for entry in recipe.passes if entry.learns}
    content = {
        "recipe": Path(args.recipe).name,
        "baseline": baseline,
        "hurt": hurt,
        "healed": healed,
        "won_back": won,
        "learning_seconds": round(sum(p["seconds"] for p in healed["passes"] if p["pass"] in learning), 1),
        "seconds": round(time.monotonic() - begin, 1),
        "environment": dict(describe_environment(torch.device("cpu"), recipe.seed)),
    }
    write_result(args.result, content)
    for name, share in won.items():
        print(f"{name}: {baseline[name]:.3f} -> {hurt[name]:.3f} -> {healed[name]:.3f}, {share:.0%} won back")
    print(f"{content['learning_seconds']} s of learning")


if __name__ == "__main__":
    main()
