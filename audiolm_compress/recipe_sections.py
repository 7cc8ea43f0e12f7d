"""Sections of a recipe: the clips, what must hold at the end, and what a search looks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from audiolm_compress.settings import ExistingFolder, Settings, existing_file, refuse_idle, resolve

EMBEDDED_CLIPS = ("tiny", "tiny-valid")


def _annotation(value: str, info: ValidationInfo) -> str:
    return value if value in EMBEDDED_CLIPS else existing_file(value, info)


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


AnnotationFile = Annotated[str, AfterValidator(_annotation)]
Limit = float | Literal["noise"] | None


class DataSettings(Settings):
    """The clips that passes calibrate on or learn from, and those that the two models are compared on."""

    calibration: AnnotationFile = Field(
        "tiny",
        description="annotation (SALMONN JSON) that passes calibrate on; `tiny`: the embedded clips; "
        "`tiny-valid`: embedded clips that nothing has learnt from, for searches",
    )
    calibration_clips: int = Field(
        128, ge=1, description="how many of the calibration clips are used, tasks mixed"
    )
    training: AnnotationFile | None = Field(
        None,
        description="annotation that training passes learn from, read only if there are such passes; `tiny`: "
        "the embedded training clips; unset: the calibration clips",
    )
    training_clips: int | None = Field(
        None,
        ge=1,
        description="how many of the training clips are used, tasks mixed; unset: all. They are held in "
        "memory, 4 MB a minute",
    )
    feature_cache: str | None = Field(
        None,
        min_length=1,
        description="folder, shared between runs, for what the baseline tells passes which learn; unset: one "
        "that is removed with the run",
    )
    feature_cache_gib: float = Field(
        16.0, gt=0, description="most that this folder may hold; what was not used for longest goes first"
    )
    test: Annotated[tuple[AnnotationFile, ...], BeforeValidator(_as_list)] = Field(
        ("tiny",), min_length=1, description="annotation, or list of them, that both models are measured on"
    )
    prefix: ExistingFolder | None = Field(
        None,
        description="folder that the annotations' audio paths start from; unset: the annotation's own folder",
    )
    channel: Literal["first", "mean"] = Field(
        "first", description="what is taken of audio with several channels"
    )
    on_bad_audio: Literal["stop", "skip"] = Field(
        "stop", description="unusable audio files stop the run before any work, or are left out and counted"
    )

    @field_validator("training_clips")
    @classmethod
    def _clips_of_training(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and info.data.get("training", "wrong") is None:
            raise ValueError("limits the clips of `training`, which is unset; set it, or calibration_clips")
        return count

    @field_validator("feature_cache")
    @classmethod
    def _resolved(cls, folder: str | None, info: ValidationInfo) -> str | None:
        return None if folder is None else str(resolve(folder, info))

    @field_validator("prefix")
    @classmethod
    def _no_prefix_for_tiny(cls, prefix: str | None, info: ValidationInfo) -> str | None:
        test = info.data.get("test", ())
        if prefix is not None and set(test) & set(EMBEDDED_CLIPS) and len(test) > 1:
            raise ValueError(
                "cannot be joined with the embedded clips, which lie elsewhere; test on one of them"
            )
        return prefix

    @model_validator(mode="after")
    def _embedded_clips_need_nothing(self) -> DataSettings:
        files = {self.calibration, self.training or self.calibration, *self.test}
        if files <= set(EMBEDDED_CLIPS):
            names = ("prefix", "channel", "on_bad_audio")
            refuse_idle(self, *names, beside="embedded clips alone", instead="name an annotation")
        return self


class Goals(Settings):
    """What the candidate must reach; ratios are candidate / baseline, so smaller is better; GiB are its own.

    ``noise`` as a limit of a score: the candidate may be worse only by what chance explains, that is, the
    95 % interval of the paired difference must contain zero or lie on the better side.
    """

    weights_gib: float | None = Field(None, gt=0, description="GiB of weights: at most this")
    peak_memory_gib: float | None = Field(None, gt=0, description="GiB of peak memory: at most this")
    weight_ratio: float | None = Field(None, gt=0, description="bytes of weights: at most this ratio")
    peak_memory_ratio: float | None = Field(None, gt=0, description="peak memory: at most this ratio")
    ttft_ratio: float | None = Field(None, gt=0, description="time to the first token: at most this ratio")
    tpot_ratio: float | None = Field(None, gt=0, description="time per further token: at most this ratio")
    wer_increase: Limit = Field(None, description="word error rate: at most this much higher, or `noise`")
    cider_d_decrease: Limit = Field(None, description="CIDEr-D: at most this much lower, or `noise`")
    spider_decrease: Limit = Field(None, description="SPIDEr: at most this much lower, or `noise`")
    spice_decrease: Limit = Field(None, description="SPICE: at most this much lower, or `noise`")
    similarity_decrease: Limit = Field(
        None, description="similarity of captions in meaning: at most this much lower, or `noise`"
    )
    fense_decrease: Limit = Field(None, description="FENSE: at most this much lower, or `noise`")
    qa_exact_decrease: Limit = Field(
        None, description="share of answers equal to a reference: at most this much lower, or `noise`"
    )
    qa_match_decrease: Limit = Field(
        None,
        description="the same without case, punctuation, articles: at most this much lower, or `noise`",
    )
    aac_decrease: Limit = Field(
        None,
        description="SPIDEr, or CIDEr-D without SPICE: at most this much lower, or `noise`",
    )


Objective = Literal[
    "weights",
    "peak_memory",
    "ttft",
    "tpot",
    "aac",
    "wer",
    "cider_d",
    "spider",
    "spice",
    "similarity",
    "fense",
    "qa_exact",
    "qa_match",
]


class SearchSettings(Settings):
    """What ``audiolm-compress search`` looks for; ``run`` does not read it."""

    objectives: tuple[Objective, ...] = Field(
        ("weights", "ttft", "tpot", "wer", "aac"),
        min_length=1,
        description="what trials are compared by; of those that meet the goals, the first decides. `aac`: "
        "SPIDEr, CIDEr-D without SPICE",
    )
    trials: int = Field(24, ge=1, description="configurations to measure, by all processes together")

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, names: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"names an objective twice: {', '.join(names)}")
        return names
