"""What decode_search finds for `tiny` if it decodes greedily.

    python benchmarks/decoding.py

Many checkpoints come with greedy decoding, or are taken to it for speed. The pass of decoding.yaml searches
on all clips that are not test clips: 94 with speech, 353 with sounds. (Captions of training clips are good
enough to decide by, as the model does not know them by heart; recognised training clips hold no error, and
decide nothing.) Reported are the metric on the clips that may decide, on those held out of the search, and on
the test clips, before and after.

Writes results/decoding_tiny.json. What beams cost is in its ``work`` figures: tokens times beams.
"""

from __future__ import annotations

from pathlib import Path

import torch
from recovery import quality
from result_file import write_result

from audiolm_compress.cli.progress import shown_progress
from audiolm_compress.data.example import Example
from audiolm_compress.data.tasks import task_kind
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.pass_loop import apply_passes
from audiolm_compress.passes.base import Progress
from audiolm_compress.recipe import load_recipe
from audiolm_compress.run_data import load_calibration
from audiolm_compress.salmonn.load import TINY, load_model

RECIPE = Path(__file__).with_name("decoding.yaml")
RESULT = Path(__file__).parent / "results" / "decoding_tiny.json"


def deciding_clips(progress: Progress) -> list[Example]:
    """Calibration and validation clips, and those of training that are captioned."""

    def clips(annotation: str) -> list[Example]:
        changes = [f"data.calibration={annotation}", "data.calibration_clips=1000"]
        return load_calibration(load_recipe(RECIPE, changes), progress)

    training = clips(str(TINY / "data" / "training.json"))
    captioned = [example for example in training if task_kind(example.task) == "aac"]
    return [*clips("tiny"), *clips("tiny-valid"), *captioned]


def main() -> None:
    recipe = load_recipe(RECIPE)
    torch.manual_seed(recipe.seed)
    with shown_progress() as progress:
        model = load_model(recipe.baseline)
        for task, settings in model.decode.items():
            model.decode[task] = settings.model_copy(update={"num_beams": 1})
        before = quality(model, recipe, progress, "greedy")
        (step,) = apply_passes(model, recipe, deciding_clips(progress), progress)
        after = quality(model, recipe, progress, "as found")
    environment = dict(describe_environment(torch.device("cpu"), recipe.seed))
    content = {
        "before": before,
        "after": after,
        "summary": step.summary,
        "figures": dict(step.figures),
        "history": list(step.modules),
        "found": {task: settings.model_dump() for task, settings in model.decode.items()},
        "environment": environment,
    }
    write_result(RESULT, content)
    print(step.summary)
    print("greedy", before)
    print("as found", after)


if __name__ == "__main__":
    main()
