"""Training clips reach the passes that learn from them, and are not even read for others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from audiolm_compress.errors import DataError
from audiolm_compress.pass_loop import apply_passes
from audiolm_compress.passes.base import Context, Pass, PassReport, Silent
from audiolm_compress.pipeline import apply_recipe
from audiolm_compress.planner import training_texts
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.rehearsal import rehearse
from audiolm_compress.run_data import load_calibration, load_training
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.outline import outline_model

TEXTS = ("the quick brown fox", "a dog barks", "one two three", "birds sing")


class Learner(Pass):
    """Tells which clips it would learn from, and changes nothing."""

    learns: ClassVar[bool] = True
    kind: Literal["learner"] = Field("learner", alias="pass")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        clips = {"texts": [clip.text for clip in context.training_clips], "given": len(context.training)}
        return PassReport(changed=False, summary="only listened", figures=clips)

    def predict(self, sketch: Sketch) -> None:
        sketch.notes.append(f"would learn from {sketch.training_clips} clips")


@pytest.fixture
def annotation(tmp_path: Path, parity: Path) -> Path:
    """Four clips, tasks in turn, whose audio lies in another folder than the annotation."""
    (tmp_path / "audio").mkdir()
    entries = []
    for index, text in enumerate(TEXTS):
        shutil.copy(parity / "llama" / "audio" / "clip1.wav", tmp_path / "audio" / f"clip{index}.wav")
        entries.append({"path": f"clip{index}.wav", "text": text, "task": ("asr", "audiocaption")[index % 2]})
    file = tmp_path / "training.json"
    file.write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    return file


@pytest.fixture
def recipe_of(annotation: Path, parity: Path) -> Callable[..., Recipe]:
    def build(*passes: str, **data: Any) -> Recipe:
        entries = {
            "baseline": str(parity / "llama" / "config.yaml"),
            "data": {"prefix": str(annotation.parent / "audio"), "calibration_clips": 2, **data},
            "passes": [{"pass": name} for name in passes],
        }
        return load_recipe(entries, extra_passes=(Learner,))

    return build


def figures(model: Salmonn, recipe: Recipe) -> dict[str, Any]:
    calibration = load_calibration(recipe, Silent())
    training = load_training(recipe, Silent())
    return dict(apply_passes(model, recipe, calibration, Silent(), training.examples)[-1].figures)


def test_a_pass_that_learns_gets_the_training_clips(
    recipe_of: Callable[..., Recipe], annotation: Path, small_model: Callable[[str], Salmonn]
) -> None:
    """Their paths begin at the prefix, while the embedded calibration clips lie beside their annotation."""
    model = small_model("llama")
    found = figures(model, recipe_of("learner", training=str(annotation)))
    assert found == {"texts": list(TEXTS), "given": 4}
    some = recipe_of("learner", training=str(annotation), training_clips=3)
    assert figures(model, some)["texts"] == list(TEXTS[:3])


def test_the_word_tiny_means_the_embedded_training_clips(
    recipe_of: Callable[..., Recipe], annotation: Path
) -> None:
    """Also where the recipe's own clips start from another folder."""
    recipe = recipe_of("learner", training="tiny", training_clips=4, test=str(annotation))
    found = load_training(recipe, Silent()).examples
    assert [clip.id.split("/")[0] for clip in found] == ["asr", "asr", "aac", "aac"]
    assert [clip.id for clip in training_texts(recipe)] == [clip.id for clip in found]


def test_without_training_clips_it_gets_those_of_calibration(
    recipe_of: Callable[..., Recipe], annotation: Path, small_model: Callable[[str], Salmonn]
) -> None:
    recipe = recipe_of("learner", calibration=str(annotation))
    assert figures(small_model("llama"), recipe) == {"texts": list(TEXTS[:2]), "given": 0}
    assert training_texts(recipe) == []


def test_clips_that_nobody_learns_from_are_not_read_and_that_is_said(
    recipe_of: Callable[..., Recipe], annotation: Path
) -> None:
    (annotation.parent / "audio" / "clip0.wav").unlink()
    recipe = recipe_of("merge_lora", training=str(annotation))
    found = load_training(recipe, Silent())
    assert (found.examples, found.notes) == (
        (),
        ("data.training was not used: no pass of the recipe learns",),
    )
    assert training_texts(recipe) == []


def test_bad_training_audio_stops_the_run_before_any_work(
    recipe_of: Callable[..., Recipe], annotation: Path, tmp_path: Path
) -> None:
    (annotation.parent / "audio" / "clip0.wav").unlink()
    recipe = recipe_of("learner", training=str(annotation)).model_copy(update={"baseline": "no/model"})
    with pytest.raises(DataError, match=r"(?s)^data\.training: .*1 of 4 audio files.*clip0\.wav: missing"):
        apply_recipe(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_audio_that_is_left_out_stands_in_the_notes(
    recipe_of: Callable[..., Recipe], annotation: Path
) -> None:
    file = annotation.parent / "audio" / "clip0.wav"
    file.unlink()
    found = load_training(recipe_of("learner", training=str(annotation), on_bad_audio="skip"), Silent())
    assert [clip.text for clip in found.examples] == list(TEXTS[1:])
    assert found.notes == (f"data.training: {file} was left out: missing",)


def test_an_annotation_that_cannot_be_read_is_named_with_its_section(
    recipe_of: Callable[..., Recipe], annotation: Path
) -> None:
    annotation.write_text("[]", encoding="utf-8")
    for section in ("calibration", "training"):
        recipe = recipe_of("learner", **{section: str(annotation)})
        with pytest.raises(DataError, match=rf"^data\.{section}: .*training\.json: expected"):
            load_calibration(recipe, Silent())
            load_training(recipe, Silent())


def test_plan_and_rehearsal_know_the_training_clips(
    recipe_of: Callable[..., Recipe], annotation: Path
) -> None:
    """The plan counts them without audio; the rehearsal learns from noise with their tasks and texts."""
    recipe = recipe_of("learner", training=str(annotation), training_clips=3)
    texts = training_texts(recipe)
    assert [clip.text for clip in texts] == list(TEXTS[:3])
    sketch = Sketch(outline_model(recipe.baseline).model, training=texts)
    recipe.passes[0].predict(sketch)
    assert sketch.notes == ["would learn from 3 clips"]
    training = load_training(recipe, Silent()).examples
    (report,) = rehearse(recipe, (), None, training).reports
    assert report is not None
    assert set(report.figures["texts"]) == set(TEXTS[:3])
