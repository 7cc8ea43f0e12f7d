"""Own recordings: from a folder of clips and texts to a model that is calibrated and measured on them.

    python examples/own_data.py FOLDER                   # clip.wav and clip.txt, side by side
    python examples/own_data.py FOLDER --task audiocaption --baseline salmonn.yaml

A `clip.txt` has the words that are spoken, or with `--task audiocaption` a description a line. Every second
clip is measured on, and the others calibrate: clips that a pass has seen say little about how well it hears.
With a few dozen clips most differences are noise, as the report will say.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from audiolm_compress import apply_recipe

AUDIO = {".wav", ".flac", ".ogg", ".mp3"}
PASSES = [{"pass": "merge_lora"}, {"pass": "cast"}, {"pass": "quantize_encoder"}]


def annotate(folder: Path, task: str) -> dict[str, str]:
    """Write calibration.json and test.json beside the clips; SALMONN's annotations look like that."""
    entries = []
    for clip in sorted(file for file in folder.iterdir() if file.suffix.lower() in AUDIO):
        texts = clip.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        entry = {"path": clip.name, "testset_id": clip.stem, "task": task, "source": folder.name}
        entries.append(entry | {"text": texts[0], "texts": texts})
    files = {"calibration": folder / "calibration.json", "test": folder / "test.json"}
    for file, half in zip(files.values(), (entries[1::2], entries[::2]), strict=True):
        file.write_text(json.dumps({"annotation": half}, indent=1), encoding="utf-8")
    return {name: str(file) for name, file in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="clips and texts")
    parser.add_argument("--task", default="asr", help="asr or audiocaption")
    parser.add_argument("--baseline", default="tiny", help="anything that load_model takes")
    parser.add_argument("--out", default="out/own_data", help="folder of the smaller model")
    parser.add_argument("--set", nargs="*", default=[], help="changes, such as benchmark.max_clips=20")
    arguments = parser.parse_args()

    recipe = {"passes": PASSES, "data": annotate(arguments.folder, arguments.task)}
    result = apply_recipe(recipe, baseline=arguments.baseline, out=arguments.out, overrides=arguments.set)
    print(result.report.table())
    for clip in result.report.candidate.clips[:3]:
        print(f"{clip.testset_id}: {clip.references[0]!r} was heard as {clip.text!r}")


if __name__ == "__main__":
    main()
