"""A run gives a folder that stands on its own and a report of just that folder, or leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from pydantic import Field

from audiolm_compress.cli import _run
from audiolm_compress.data.example import Example
from audiolm_compress.errors import AudioLMError, DataError, PassError
from audiolm_compress.pass_loop import apply_passes
from audiolm_compress.passes.base import Context, Pass, PassReport, Silent
from audiolm_compress.pipeline import Result, apply_recipe
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.reload_check import Behaviour
from audiolm_compress.report import Report
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

TEXTS = ("the quick brown fox", "a dog barks while rain falls", "one two three", "birds sing")


class Draw(Pass):
    """Notes what chance gives it."""

    kind: Literal["draw"] = Field("draw", alias="pass")

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        own = torch.rand(1, generator=context.rng).item()
        return PassReport(changed=False, summary="drew", figures={"own": own, "common": torch.rand(1).item()})


@pytest.fixture(scope="module")
def annotation(tmp_path_factory: pytest.TempPathFactory, parity: Path) -> Path:
    """Four clips, two of them to be recognised and two to be described."""
    folder = tmp_path_factory.mktemp("clips")
    entries = []
    for index, text in enumerate(TEXTS):
        name = f"clip{index}.wav"
        shutil.copy(parity / "llama" / "audio" / f"clip{index // 2}.wav", folder / name)
        entries.append(
            {"path": name, "text": text, "task": ("asr", "audiocaption")[index % 2], "testset_id": name}
        )
    file = folder / "clips.json"
    file.write_text(json.dumps({"annotation": entries}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def recipe(annotation: Path, parity: Path) -> dict[str, Any]:
    """Every pass on the random Llama set, measured as shortly as possible."""
    return {
        "name": "small",
        "baseline": str(parity / "llama" / "config.yaml"),
        "data": {"calibration": str(annotation), "test": str(annotation)},
        "passes": [
            {"pass": "merge_lora"},
            {"pass": "cast", "dtype": "bfloat16"},
            {"pass": "gptq", "bits": 4, "group_size": 32},
            {"pass": "quantize_embedding"},
        ],
        "benchmark": {
            "batch_size": 2,
            "decode": {"asr": {"max_new_tokens": 4}, "aac": {"max_new_tokens": 4}},
            "latency": {"clips": 2, "warmup": 0},
            "noise_protocol": {"warmup": 0, "iterations": 1},
        },
        "goals": {"weight_ratio": 0.7},
    }


@pytest.fixture(scope="module")
def result(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Of the recipe, with a pass behind it that changes nothing, and data that nothing reads."""
    more = {"data": recipe["data"] | {"training": "tiny"}, "passes": [*recipe["passes"], {"pass": "draw"}]}
    own = load_recipe(recipe | more, extra_passes=(Draw,))
    return apply_recipe(own, out=tmp_path_factory.mktemp("run") / "small", device="cpu")


def test_the_report_is_of_the_folder(result: Result) -> None:
    report = result.report
    names = ["merge_lora", "cast", "gptq", "quantize_embedding", "draw"]
    assert [step.name for step in report.steps] == names
    assert [step.changed for step in report.steps] == [True, True, True, True, False]
    assert report.candidate.weight_bytes == sum(result.model.weight_bytes().values())
    assert report.candidate.weight_bytes < report.baseline.weight_bytes
    assert dict(report.steps[-1].weight_bytes) == dict(report.candidate.weight_bytes_by_part)
    assert report.candidate.source == str(result.path)
    assert report.candidate.decode == report.baseline.decode
    assert report.goals_met
    assert (
        Report.from_json((result.path / "report.json").read_text(encoding="utf-8")).to_json()
        == report.to_json()
    )
    assert [path.name for path in result.path.parent.iterdir()] == ["small"], "no working folder is left"


def test_the_folder_stands_on_its_own(result: Result, tmp_path: Path, clips: list[torch.Tensor]) -> None:
    copy = shutil.copytree(result.path, tmp_path / "elsewhere")
    moved = load_model(copy)
    assert moved.generate(clips, "asr", max_new_tokens=4) == result.model.generate(
        clips, "asr", max_new_tokens=4
    )
    resolved = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    again, read = (load_recipe(of, extra_passes=(Draw,)) for of in (resolved, copy / "recipe.yaml"))
    assert again.passes == read.passes


def test_the_same_command_gives_the_same_model_and_texts(
    recipe: dict[str, Any], result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line this time, with a goal out of reach: exit code 3, and the folder is there."""
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    out = tmp_path / "again"
    code = _run(["run", str(file), "--out", str(out), "--device", "cpu", "--set", "goals.weight_ratio=0.01"])
    captured = capsys.readouterr()
    assert code == 3
    assert "Goals MISSED" in captured.out and "weight_ratio" in captured.out
    assert "pass 3 of 4: gptq" in captured.err
    for name in ("model.safetensors", "config.json", "candidate_asr.csv", "candidate_aac.csv"):
        assert (out / name).read_bytes() == (result.path / name).read_bytes(), name


class Failing(Pass):
    """A third party's pass that cannot be applied, or is interrupted."""

    kind: Literal["failing"] = Field("failing", alias="pass")
    interrupted: bool = False

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        if self.interrupted:
            raise KeyboardInterrupt
        raise PassError("failing: asked for the impossible")


def foreign(*passes: Pass, seed: int = 0) -> Recipe:
    entries = [entry.model_dump(by_alias=True) for entry in passes]
    return load_recipe({"passes": entries, "seed": seed}, extra_passes=(Failing, Draw))


def test_an_impossible_pass_says_where_it_stands(small_model: Callable[[str], Salmonn]) -> None:
    with pytest.raises(
        PassError, match=r"^pass 2 of 2 \(after draw\): failing: asked for the impossible$"
    ) as caught:
        apply_passes(small_model("llama"), foreign(Draw(), Failing()), (), Silent())
    assert isinstance(caught.value.__cause__, PassError)


def test_every_pass_has_its_own_chance(small_model: Callable[[str], Salmonn]) -> None:
    model = small_model("llama")

    def drawn(seed: int) -> list[Any]:
        torch.manual_seed(torch.initial_seed() + 1)  # whatever came before must not matter
        steps = apply_passes(model, foreign(Draw(), Draw(), seed=seed), (), Silent())
        return [value for step in steps for value in step.figures.values()]

    first = drawn(0)
    assert drawn(0) == first
    assert set(drawn(1)).isdisjoint(first)
    assert first[0] != first[2] and first[1] != first[3]


def test_what_was_not_rehearsed_or_used_stands_in_the_report(result: Result) -> None:
    assert result.report.notes == (
        "data.training was not used: no pass of the recipe learns",
        "rehearsal: pass 5 (draw) cannot predict, so it was not tried",
    )


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_broken_run_leaves_nothing(recipe: dict[str, Any], tmp_path: Path, interrupted: bool) -> None:
    entries = recipe | {"passes": [{"pass": "failing", "interrupted": interrupted}]}
    broken = load_recipe(entries, extra_passes=(Failing,))
    with pytest.raises(KeyboardInterrupt if interrupted else PassError):
        apply_recipe(broken, out=tmp_path / "out" / "small", device="cpu")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_foreign_folder_is_left_alone(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(AudioLMError, match="left alone"):
        apply_recipe(recipe, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_baseline_that_is_not_there_is_told_before_the_clips_are_read(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    read: list[str] = []

    class Telling(Silent):
        def stage(self, name: str) -> None:
            read.append(name)

    with pytest.raises(AudioLMError, match=r"model none\.yaml: no such file"):
        apply_recipe(recipe, baseline="none.yaml", out=tmp_path / "out", progress=Telling())
    assert read == []


def test_bad_audio_stops_the_run_before_any_work(
    recipe: dict[str, Any], annotation: Path, tmp_path: Path
) -> None:
    content = json.loads(annotation.read_text(encoding="utf-8"))
    for name in ("gone.wav", "lost.wav"):
        content["annotation"].append({"path": name, "text": "x", "task": "asr", "testset_id": name})
    file = annotation.with_name("bad.json")
    file.write_text(json.dumps(content), encoding="utf-8")
    entries = recipe | {"baseline": "no/model", "data": recipe["data"] | {"test": str(file)}}
    with pytest.raises(DataError, match=r"(?s)2 of 6 audio files.*gone\.wav: missing.*lost\.wav: missing"):
        apply_recipe(entries, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_changed_on_the_way_is_noticed(
    small_model: Callable[[str], Salmonn], clips: list[torch.Tensor]
) -> None:
    examples = [
        Example(task, clip, task, "one two")
        for task, clip in zip(("asr", "audiocaption"), clips, strict=True)
    ]
    model = small_model("llama")
    saved = Behaviour.of(model, examples)
    assert saved.tasks == ("audiocaption", "asr")
    saved.check(Behaviour.of(small_model("llama"), examples))
    model.connector.projection.bias.data[0] += 1e-3
    with pytest.raises(AudioLMError, match="logits are up to"):
        saved.check(Behaviour.of(model, examples))
