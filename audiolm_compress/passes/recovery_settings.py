"""What all passes that train can be told: how long, how fast, on which clips, towards what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from audiolm_compress.data.augment import Augmentation
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Pass
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.settings import Settings, refuse_idle

Part = Literal["speech_encoder", "audio_encoder", "connector", "llm"]
_TRAINING_FLOPS = 3.0  # forward and backward passes, relative to the forward pass alone


class Losses(Settings):
    """Weights of the losses; 0 leaves one out."""

    speech: float = Field(1.0, ge=0, description="Whisper's states against the baseline's.")
    audio: float = Field(1.0, ge=0, description="BEATs' states against the baseline's.")
    connector: float = Field(1.0, ge=0, description="Audio tokens against the baseline's.")
    logits: float = Field(1.0, ge=0, description="Next-token probabilities against the baseline's.")
    text: float = Field(0.5, ge=0, description="Cross-entropy of the reference texts.")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Losses:
        if not any(self.model_dump().values()):
            raise ValueError("all losses are 0, so there is nothing to learn; give one of them a weight")
        return self


# What the outputs that losses compare are computed from: loss -> parts.
COMPUTED_FROM: Mapping[str, frozenset[Part]] = {
    "speech": frozenset({"speech_encoder"}),
    "audio": frozenset({"audio_encoder"}),
    "connector": frozenset({"speech_encoder", "audio_encoder", "connector"}),
    "logits": frozenset({"speech_encoder", "audio_encoder", "connector", "llm"}),
    "text": frozenset({"speech_encoder", "audio_encoder", "connector", "llm"}),
}


class Recovery(Pass):
    """Base of the passes that train; what is trained, the subclass says."""

    learns: ClassVar[bool] = True

    epochs: float | None = Field(
        4.0, gt=0, description="Rounds through the clips. The first of epochs, steps and minutes ends it."
    )
    steps: int | None = Field(None, ge=1, description="Changes of the weights.")
    minutes: float | None = Field(
        None,
        gt=0,
        description="Of training, teaching not counted. How far a machine comes in them varies, so such a "
        "run does not repeat exactly.",
    )
    learning_rate: float = Field(3e-4, gt=0, description="Highest learning rate of AdamW.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay of matrices.")
    batch_size: int = Field(8, ge=1, description="Clips in a batch; those of a batch have one length.")
    accumulation: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    mixed_precision: Literal["no", "bf16"] = Field("no", description="Autocast of the matrix products.")
    losses: Losses = Field(Losses(), description="What the student is to be near to, by weight.")
    temperature: float = Field(1.0, gt=0, description="Of the probabilities that logits are compared in.")
    clips: int | None = Field(None, ge=2, description="At most so many training clips; null: all.")
    valid_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the clips that only decides which weights are the best."
    )
    augment: Augmentation = Field(Augmentation(), description="Variants of the clips to learn from.")
    parts: tuple[Part, ...] = Field(min_length=1, description="Parts that hold what is trained.")

    @model_validator(mode="after")
    def _ends(self) -> Recovery:
        if self.epochs is None and self.steps is None and self.minutes is None:
            raise ValueError("epochs, steps and minutes are all null, so training would not end; give one")
        if self.epochs is None and self.steps is None:
            instead = "give epochs or steps, which say how many steps there are"
            refuse_idle(self, "warmup_share", beside="minutes alone", instead=instead)
        return self

    @model_validator(mode="after")
    def _losses_teach(self) -> Recovery:
        if not self.losses.logits:
            refuse_idle(self, "temperature", beside="losses.logits=0", instead="give that loss a weight")
        trained = self.trained_parts()
        for loss, sources in COMPUTED_FROM.items():
            if getattr(self.losses, loss) and not sources & trained:
                beside = f"training of {', '.join(sorted(trained))} alone"
                instead = f"train {' or '.join(sorted(sources))}"
                refuse_idle(self.losses, loss, beside=beside, instead=instead, section="losses.")
        return self

    def trained_parts(self) -> set[Part]:
        """The parts that hold what is trained."""
        return set(self.parts)

    def require_clips(self, found: int) -> None:
        """Refuse to train on so few clips that none is left to judge by.

        Raises:
            PassError: fewer than two.
        """
        if found < 2:
            raise PassError(
                f"{self.kind}: needs at least two clips, one to learn from and one to judge by; found "
                f"{found}; give data.training, or more clips there or in data.calibration"
            )

    def rehearsed(self, model: Salmonn) -> Pass:
        """A step or two on the clips as they are."""
        return self.model_copy(
            update={"epochs": None, "steps": 2, "minutes": None, "clips": None, "augment": Augmentation()}
        )

    def predict_training(self, sketch: Sketch) -> None:
        """Count the baseline's look at every clip and the student's steps.

        What is trained costs a backward pass in its part and in all that follow; encoders before it are run
        once a clip.

        Raises:
            PassError: the clips are known to be too few.
        """
        if known := sketch.training or sketch.calibration:
            self.require_clips(min(len(known), self.clips or len(known)))
        clips = min(self.clips or sketch.training_clips, sketch.training_clips) * (1 + self.augment.copies)
        sketch.run_baseline(clips)
        ends = []
        if self.epochs is not None:
            ends.append(clips * self.epochs)
        if self.steps is not None:
            ends.append(float(self.steps * self.batch_size * self.accumulation))
        seen = min(ends, default=0.0)
        if self.minutes is not None:
            said = f"ends after {self.minutes:g} minutes at the latest, which the estimate does not know"
            sketch.notes.append(f"training {said}")
        trained = self.trained_parts()
        moved = {*trained, "llm"} | ({"connector"} if trained - {"llm"} else set())
        for part in sketch.model.parts():
            sketch.run_part(part, _TRAINING_FLOPS * seen if part in moved else clips)
