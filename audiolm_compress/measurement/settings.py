"""How models are measured: the recipe's ``benchmark`` section, and the clips they are measured on."""

from __future__ import annotations

from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import AfterValidator, Field, ValidationInfo, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from audiolm_compress.data.tasks import task_kind
from audiolm_compress.runtime.settings import RuntimeSettings
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.settings import ExistingFolder, Settings, refuse_idle


def _optional(field: FieldInfo) -> tuple[Any, FieldInfo]:
    field = copy(field)
    field.default = None
    return Optional[field.annotation], field  # noqa: UP045  # the annotation is a value here


class _Changes(Settings):
    """What the changes below must hold among themselves."""

    @model_validator(mode="after")
    def _all_count(self) -> _Changes:
        if getattr(self, "do_sample", None) is False:
            refuse_idle(self, "temperature", "top_p", beside="do_sample: false", instead="set it to true")
        if getattr(self, "num_beams", None) == 1:
            refuse_idle(self, "length_penalty", beside="num_beams: 1", instead="take more beams")
        return self


# The fields of DecodeSettings with their bounds, all optional: what is not named stays the model's own.
DecodeChanges: type[Settings] = create_model(  # type: ignore[call-overload]  # it knows no mapping of fields
    "DecodeChanges",
    __base__=_Changes,
    __doc__="Changes to a model's own decode settings.",
    **{name: _optional(field) for name, field in DecodeSettings.model_fields.items()},
)


def _model_folder(folder: str) -> str:
    missing = [name for name in ("config.json", "model.safetensors") if not Path(folder, name).is_file()]
    if missing:
        raise ValueError(f"no {' and no '.join(missing)} in {folder}")
    return folder


ModelFolder = Annotated[ExistingFolder, AfterValidator(_model_folder)]


class ClipLatency(Settings):
    """TTFT and TPOT over real clips and full greedy answers, batch 1."""

    clips: int = Field(20, ge=1, description="how many test clips are timed, tasks in turn")
    warmup: int = Field(3, ge=0, description="answers given before the clock counts")
    transformers: bool = Field(
        True,
        description="time the same clips in transformers' `generate` as well, which tells the runtime's "
        "share from compression's",
    )
    rounds: int = Field(
        4,
        ge=1,
        description="parts that the runs of each protocol are cut into; models that are compared take turns "
        "in the order A B, B A, ...",
    )
    interleave: bool = Field(
        True,
        description="load the models that are compared together and time them in turns, so that a machine "
        "that drifts does so for all; where one, loaded, leaves less than twice its own memory free, it is "
        "timed alone, which the report says. false: one after the other",
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="also time the clips answered this many at a time, such as [1, 4, 8]"
    )


class NoiseLatency(Settings):
    """TTFT and TPOT in the upstream protocol: 10 s of noise, batch 1, one decode step."""

    warmup: int = Field(10, ge=0, description="iterations before the clock counts")
    iterations: int = Field(100, ge=1, description="iterations that are counted")


class BenchmarkSettings(Settings):
    """How both models are measured; the two get the same of everything."""

    batch_size: int = Field(8, ge=1, description="clips answered together in the quality part")
    decode: dict[str, DecodeChanges] = Field(
        {},
        description="changes to the model's decode settings by task: `asr`, `aac`, `qa` or a task's own name",
    )
    latency: ClipLatency = Field(ClipLatency(), description="timing on real clips")
    noise_protocol: NoiseLatency = Field(NoiseLatency(), description="timing in the upstream protocol")
    runtime: RuntimeSettings = Field(
        RuntimeSettings(), description="what runs the LLM of both models, for timing and for answers"
    )
    max_clips: int | None = Field(
        None, ge=1, description="at most this many test clips, tasks in turn; unset: all"
    )
    raw_captions: bool = Field(
        False,
        description="compare captions as they are written, as upstream's evaluation does; false: in lower "
        "case and without punctuation",
    )
    length_edges: tuple[float, ...] = Field(
        (5.0, 10.0, 20.0, 30.0),
        min_length=1,
        description="seconds, ascending, that part the clips into groups by length; scores are given of each",
    )
    sentence_model: ModelFolder | None = Field(
        None,
        description="folder of a sentence encoder (config.json, tokenizer, model.safetensors), such as "
        "paraphrase-TinyBERT-L6-v2, for the similarity of captions to their references; unset: not scored",
    )
    fluency_model: ModelFolder | None = Field(
        None,
        description="folder of FENSE's error detector (see metrics/fluency.py), for FENSE; needs "
        "`sentence_model`; unset: not scored",
    )

    @field_validator("fluency_model")
    @classmethod
    def _half_of_fense(cls, folder: str | None, info: ValidationInfo) -> str | None:
        if folder is not None and info.data.get("sentence_model", "wrong") is None:
            raise ValueError("is half of FENSE, whose other half needs `sentence_model`, which is unset")
        return folder

    @field_validator("length_edges")
    @classmethod
    def _ascending(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(high <= low for low, high in pairwise((0.0, *edges))):
            raise ValueError(f"length_edges are lengths above 0 in ascending order; found {list(edges)}")
        return edges

    def decode_changes(self, task: str) -> dict[str, Any]:
        """What to change of the decode settings for a task; its own name goes before its kind."""
        kind = self.decode.get(task_kind(task))
        own = self.decode.get(task)
        return {
            name: value
            for changes in (kind, own)
            if changes is not None
            for name, value in changes.model_dump(exclude_none=True).items()
        }


class ClipSource(Settings):
    """The clips that models are measured on; keys as in a recipe's ``data`` section."""

    test: tuple[str, ...] = Field(min_length=1, description="annotation files")
    prefix: str | None = Field(None, description="folder that the audio paths start from")
    channel: Literal["first", "mean"] = Field("first", description="what is taken of several channels")
    on_bad_audio: Literal["stop", "skip"] = Field("stop", description="what is done about unusable files")
