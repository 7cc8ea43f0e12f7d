"""How a model is asked and how its answers are decoded: all that scores depend on besides the weights."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.prompts import Prompts
from audiolm_compress.settings import Settings


class Asking(Settings):
    """Prompts and decode settings of a model, to be given to another."""

    prompts: Prompts = Field(description="Instructions and templates.")
    decode: Mapping[str, DecodeSettings] = Field(description="Settings under `default` and by task.")

    @classmethod
    def of(cls, model: Salmonn) -> Asking:
        """What ``model`` has now."""
        return cls(prompts=model.prompts, decode=dict(model.decode))

    def give(self, model: Salmonn) -> None:
        """Let ``model`` be asked and decode like that."""
        model.prompts, model.decode = self.prompts, dict(self.decode)
