"""What is kept of a run, when it counts, and what makes it void."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import Field

from audiolm_compress import kept_stages, stage_keys
from audiolm_compress.data.example import Example
from audiolm_compress.errors import AudioLMError, PassError
from audiolm_compress.kept_stages import stages_of
from audiolm_compress.pass_loop import compressed
from audiolm_compress.passes.base import Context, Pass, PassReport, Silent
from audiolm_compress.recipe import Recipe, load_recipe
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn


class Add(Pass):
    """Adds to a bias, which it notes in ``APPLIED``; 0 cannot be added."""

    kind: Literal["add"] = Field("add", alias="pass")
    amount: float = 1.0
    interrupted: bool = False

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        APPLIED.append(self.amount)
        if self.interrupted:
            raise KeyboardInterrupt
        if not self.amount:
            raise PassError("add: nothing to add")
        model.connector.projection.bias.data += self.amount
        return PassReport(changed=True, summary="added")


APPLIED: list[float] = []


@pytest.fixture(autouse=True)
def _every_stage_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_stages, "_LEAST", float("-inf"))
    APPLIED.clear()


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, parity: Path) -> Path:
    model = load_model(parity / "llama" / "config.yaml")
    model.decode = {"default": model.decode_settings("asr", max_new_tokens=2)}  # a random model never ends
    return store.save(model, tmp_path_factory.mktemp("baseline") / "model")


@pytest.fixture
def examples(clips: list[torch.Tensor]) -> list[Example]:
    return [Example("a", clips[1], "asr", "one two", ("one two",))]


def adding(baseline: Path, *amounts: float, interrupted: bool = False) -> Recipe:
    passes = [{"pass": "add", "amount": amount} for amount in amounts]
    passes[-1]["interrupted"] = interrupted
    return load_recipe({"name": "sum", "baseline": str(baseline), "passes": passes}, extra_passes=(Add,))


@cache
def loaded(baseline: str) -> Salmonn:
    return load_model(baseline)


def added(
    recipe: Recipe, out: Path, publish: bool = False, lasting: bool = True
) -> tuple[Salmonn, list[str]]:
    """The passes of a run, and what was taken."""
    keys = stage_keys.stage_keys(recipe, loaded(recipe.baseline), (), ())
    with stages_of(out, lasting, Silent()) as stages:
        model, steps = compressed(recipe, keys, (), (), "cpu", Silent(), stages)
        assert [step.settings["amount"] for step in steps] == [entry.amount for entry in recipe.passes]  # type: ignore[attr-defined]
        if publish:
            stages.publish(stages.model_folder(keys, len(steps)))
    return model, stages.taken


def test_what_failed_goes_on_with_other_settings(baseline: Path, tmp_path: Path) -> None:
    out = tmp_path / "sum"
    with pytest.raises(PassError, match="pass 3 of 3"):
        added(adding(baseline, 1, 2, 0), out)
    model, taken = added(adding(baseline, 1, 2, 4), out, publish=True)
    assert taken == ["passes 1 to 2"]
    assert APPLIED == [1, 2, 0, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["sum"]
    assert torch.equal(load_model(out).connector.projection.bias, model.connector.projection.bias)


def test_an_interruption_says_how_to_go_on(baseline: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"the model after pass 1, kept in .*\.sum\.stages: the same"):
        added(adding(baseline, 1, 2, interrupted=True), tmp_path / "sum")
    with pytest.raises(KeyboardInterrupt) as caught:  # nothing is kept, so nothing is said or left
        added(adding(baseline, 1, 2, interrupted=True), tmp_path / "other", lasting=False)
    assert str(caught.value) == ""
    assert [path.name for path in tmp_path.iterdir()] == [".sum.stages"]


def test_a_pass_quicker_than_writing_is_not_kept(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_stages, "_LEAST", 3600.0)
    with pytest.raises(PassError):
        added(adding(baseline, 1, 0), tmp_path / "sum")
    assert list(tmp_path.iterdir()) == []
    added(adding(baseline, 1, 2), tmp_path / "sum")  # but what all passes leave
    assert added(adding(baseline, 1, 2), tmp_path / "sum")[1] == ["passes 1 to 2"]


def test_what_was_changed_on_the_disk_is_not_gone_on_from(baseline: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "sum", adding(baseline, 1)
    added(recipe, out)
    (weights,) = tmp_path.glob(".sum.stages/pass1-*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AudioLMError, match=r"has changed since; the same command begins without it"):
        added(recipe, out)
    assert added(recipe, out)[1] == []


def test_everything_that_decides_the_outcome_is_in_the_keys(
    baseline: Path, examples: list[Example], small_model: Callable[[str], Salmonn]
) -> None:
    model, recipe = small_model("llama"), adding(baseline, 1, 2)
    keys = stage_keys.stage_keys(recipe, model, examples, ())
    assert stage_keys.stage_keys(recipe, small_model("llama"), examples, ()) == keys
    later = stage_keys.stage_keys(adding(baseline, 1, 3), model, examples, ())
    assert [one == other for one, other in zip(keys, later, strict=True)] == [True, True, False]
    seed = stage_keys.stage_keys(recipe.model_copy(update={"seed": 1}), model, examples, ())
    assert [one == other for one, other in zip(keys, seed, strict=True)] == [True, False, False]
    louder = [replace(examples[0], waveform=examples[0].waveform * 2)]
    assert stage_keys.stage_keys(recipe, model, louder, ()) != keys
    assert stage_keys.stage_keys(recipe, model, [replace(examples[0], text="one")], ()) != keys
    assert stage_keys.stage_keys(recipe, model, examples, examples) != keys
    model.connector.projection.bias.data[0] += 1e-6
    other = stage_keys.stage_keys(recipe, model, examples, ())
    assert set(keys).isdisjoint(other)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert set(other).isdisjoint(stage_keys.stage_keys(recipe, model, examples, ()))
    finally:
        torch.set_num_threads(threads)


def test_an_edit_of_the_sources_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_keys, "_PACKAGE", tmp_path)
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "module.py"
    digests = []
    for text in ("x = 1", "x = 2", "x = 1"):
        file.write_text(text)
        digests.append(stage_keys.package_digest.__wrapped__())
    assert digests[0] == digests[2] != digests[1]


def test_results_are_computed_once(tmp_path: Path) -> None:
    computed: list[str] = []

    def third(key: str) -> float:
        computed.append(key)
        return 0.1 + 0.2

    for taken in ([], ["it", "it"]):
        with stages_of(tmp_path / "a", True, Silent()) as stages:
            found = [stages.recalled("it", key, partial(third, key), float, float) for key in "ab"]
        assert found == [third("") for _ in found]
        assert stages.taken == taken
    assert [key for key in computed if key] == ["a", "b"]


def test_a_kill_between_the_two_renames_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / ".a.stages" / "former").mkdir(parents=True)
    (tmp_path / ".a.stages" / "former" / "config.json").write_text("{}")
    with stages_of(tmp_path / "a", True, Silent()):
        assert (tmp_path / "a" / "config.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
