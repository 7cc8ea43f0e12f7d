"""How answers are decoded: the settings that both sides of a comparison must share."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from audiolm_compress.settings import Settings


class DecodeSettings(Settings):
    """Arguments of generation; names and defaults are those of the upstream ``generate`` section."""

    max_new_tokens: int = Field(200, ge=1, description="Longest answer in tokens.")
    num_beams: int = Field(4, ge=1, description="Beams of beam search; 1 is greedy.")
    do_sample: bool = Field(False, description="Draw tokens instead of taking the likeliest.")
    min_length: int = Field(
        1,
        ge=0,
        description="Shortest answer in tokens, those of the prompt and its padding counted in.",
    )
    temperature: float = Field(1.0, gt=0, description="Flattens the distribution that is sampled from.")
    top_p: float = Field(0.9, gt=0, le=1, description="Share of the probability that is sampled from.")
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        description="Above 1, tokens that the answer has already become less likely, except, in a batch, its "
        "first n behind a prompt with n paddings.",
    )
    length_penalty: float = Field(1.0, description="Above 0, beam search prefers longer answers.")
    end_sym: str = Field("</s>", description="The answer ends before this text.")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``transformers``' ``generate``."""
        values = self.model_dump(exclude={"end_sym", "temperature", "top_p"})
        if self.do_sample:
            values |= {"temperature": self.temperature, "top_p": self.top_p}
        if self.num_beams == 1:
            del values["length_penalty"]
        return values
