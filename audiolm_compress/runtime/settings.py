"""Which runtime answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from audiolm_compress.settings import Settings, refuse_idle


class RuntimeSettings(Settings):
    """How the LLM is run."""

    engine: Literal["native", "transformers"] = Field(
        "native",
        description="`native`: this package's decoder, where it knows the LLM; `transformers`: its own "
        "forward and `generate`",
    )
    compile: bool = Field(
        False,
        description="greedy decode steps of single clips in the native engine through torch.compile, without "
        "CUDA graphs; the first tokens take a minute or more, and a model that cannot be compiled as a whole "
        "runs without, with a warning",
    )

    @model_validator(mode="after")
    def _native_is_compiled(self) -> RuntimeSettings:
        if self.engine != "native":
            refuse_idle(self, "compile", beside=f"engine: {self.engine}", instead="give engine: native")
        return self
