"""What the searches for decode settings and prompts find for a model that is asked in another model's way.

    python benchmarks/asking.py

`tiny` gets the decode settings of the upstream hackathon's evaluation (4 beams, sampling, repetition penalty
1.7, one setting for both tasks) and a system text with other words for each task, none of which it knows
yet. Then the two passes of asking.yaml search on validation clips. Reported are the metric on the clips that
may decide, on those held out of the search, and on the test clips, before and after each pass.

Writes results/asking_tiny.json. It shows that the searches find back what a model was trained with; how much
a model gains that was trained with many prompts it does not show.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recovery import quality
from result_file import write_result

from audiolm_compress.cli.progress import shown_progress
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.pass_loop import apply_passes
from audiolm_compress.recipe import load_recipe
from audiolm_compress.run_data import load_calibration
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

HERE = Path(__file__).parent
RESULT = HERE / "results" / "asking_tiny.json"
SYSTEM = "You are an assistant that listens carefully."
WORDS = {
    "asr": "<Speech><SpeechHere></Speech> Write down every word that you hear.",
    "audiocaption": "<Speech><SpeechHere></Speech> Tell in one sentence what happens.",
}


def estrange(model: Salmonn) -> None:
    """Give the model prompts and decode settings of another one; its training prompts stay where they are."""
    prompts = model.prompts
    test = {task: WORDS["asr" if task == "asr" else "audiocaption"] for task in prompts.test}
    model.prompts = replace(prompts, template=f"{SYSTEM}\n{prompts.template}", test=test)
    usual = model.decode["default"].model_dump()
    foreign = {"num_beams": 4, "do_sample": True, "repetition_penalty": 1.7, "temperature": 1.0, "top_p": 0.9}
    model.decode = {"default": DecodeSettings.model_validate(usual | foreign)}


def main() -> None:
    recipe = load_recipe(HERE / "asking.yaml")
    torch.manual_seed(recipe.seed)
    stages: list[dict[str, Any]] = []
    with shown_progress() as progress:
        model = load_model(recipe.baseline)
        own = quality(model, recipe, progress, "as it was trained")
        estrange(model)
        before = quality(model, recipe, progress, "as another is asked")
        stages.append({"stage": "as another is asked", "test": before})
        calibration = load_calibration(recipe, progress)
        for entry in recipe.passes:
            (step,) = apply_passes(
                model, recipe.model_copy(update={"passes": (entry,)}), calibration, progress
            )
            stages.append(
                {
                    "stage": step.name,
                    "summary": step.summary,
                    "figures": dict(step.figures),
                    "seconds": round(step.seconds, 1),
                    "test": quality(model, recipe, progress, step.name),
                }
            )
    found = {
        "decode": {task: settings.model_dump() for task, settings in model.decode.items()},
        "prompts": {"template": model.prompts.template, "test": dict(model.prompts.test)},
    }
    environment = dict(describe_environment(torch.device("cpu"), recipe.seed))
    write_result(RESULT, {"own": own, "stages": stages, "found": found, "environment": environment})
    print("as it was trained", own)
    for stage in stages:
        print(stage["stage"], stage["test"], stage.get("figures", ""))


if __name__ == "__main__":
    main()
