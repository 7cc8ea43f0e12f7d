"""A local language model as a source of further instructions (after APE, Zhou et al., arXiv:2211.01910)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from audiolm_compress.errors import PassError
from audiolm_compress.salmonn.quiet import quiet_transformers

_LONGEST = 48  # tokens of a proposal


class LocalProposer:
    """A causal LM of transformers and its tokenizer in a folder; nothing is downloaded and no code in it run.

    Args:
        folder: with ``config.json``, safetensors and the tokenizer's files.
        seed: of the sampling.

    Raises:
        PassError: the folder holds no such model.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._seed = seed
        try:
            with quiet_transformers():
                self._tokenizer = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
                self._llm = AutoModelForCausalLM.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
                ).eval()
        except (OSError, ValueError) as error:
            raise PassError(
                f"prompt_search: proposer={folder} is no causal LM with its tokenizer, in safetensors and of "
                f"a type that transformers knows: {error}"
            ) from error

    @torch.inference_mode()
    def __call__(self, task: str, instructions: Sequence[str], count: int) -> list[str]:
        """Other ways to say what ``instructions`` say; at most ``count``, each once."""
        listed = "\n".join(f"- {text}" for text in instructions)
        request = f"Instructions for the task '{task}' that mean the same, some of them short:\n{listed}\n-"
        inputs = self._tokenizer([request] * count, return_tensors="pt")
        pad = self._tokenizer.pad_token_id
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            ids = self._llm.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                max_new_tokens=_LONGEST,
                pad_token_id=self._tokenizer.eos_token_id if pad is None else pad,
            )
        answers = self._tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], True)
        firsts = (answer.strip().partition("\n")[0].removeprefix("-").strip() for answer in answers)
        return [text for text in dict.fromkeys(firsts) if text and text not in instructions]
