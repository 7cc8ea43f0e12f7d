"""The main job from Python: a recipe, a run, the report, and an answer of the smaller model.

python examples/quick_start.py                                    # the embedded model, a minute or two
python examples/quick_start.py --baseline salmonn.yaml            # a checkpoint in upstream's layout
"""

from __future__ import annotations

import argparse

from audiolm_compress import apply_recipe
from audiolm_compress.data.audio import load_audio
from audiolm_compress.salmonn.load import TINY

RECIPE = {
    "passes": [
        {"pass": "merge_lora"},  # the LoRA factors go into the weights that they adapt
        {"pass": "cast", "dtype": "bfloat16"},  # all parts in 16 bit
        {"pass": "quantize_embedding"},  # the largest matrix of a small LLM in 8 bit
    ],
    "data": {"calibration_clips": 8},
    "goals": {"weight_ratio": 0.7, "wer_increase": "noise"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--baseline", default="tiny", help="anything that load_model takes")
    parser.add_argument("--out", default="out/quick_start", help="folder of the smaller model")
    parser.add_argument("--audio", default=TINY / "data/test/aac_test/pig.ogg", help="a clip to describe")
    parser.add_argument("--set", nargs="*", default=[], help="changes, such as benchmark.max_clips=20")
    arguments = parser.parse_args()

    result = apply_recipe(RECIPE, baseline=arguments.baseline, out=arguments.out, overrides=arguments.set)
    print(result.report.table())
    for goal in result.report.goals:
        print(f"{goal.name}: {'met' if goal.met else 'missed'}")
    print(f"\n{arguments.out} holds report.html and the model, which says of {arguments.audio}:")
    print(result.model.generate([load_audio(arguments.audio).waveform], task="audiocaption"))


if __name__ == "__main__":
    main()
