"""Captions that are no fluent English, by FENSE's error detector, and FENSE itself (arXiv:2110.04684).

    FENSE = similarity x (1 - 0.9 [p(error) > 0.9])

A caption can say the right words twice, or end in the middle; similarity hardly notices. The detector is a
BERT whose first token's vector is classified into five kinds of error and error as such. It comes from a
folder of this machine: config.json and tokenizer of the BERT, and model.safetensors with its weights under
``encoder.`` and the classifier's under ``clf.``. The authors' checkpoint has these names; it is written anew
with

    state = torch.load("echecker_clotho_audiocaps_base.ckpt", weights_only=True)["state_dict"]
    state.pop("encoder.embeddings.position_ids", None)
    save_file(state, "FOLDER/model.safetensors")
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from audiolm_compress.errors import DataError

PENALTY = 0.9  # share of the similarity that an error costs
THRESHOLD = 0.9  # of the probability of an error
_ERROR = 5  # the last of the six classes: any error
_TOKENS = 64
_BATCH = 32
_NO_WORD = re.compile(r"[^\w\s]")


def fense(similarity: float, error: bool) -> float:
    """FENSE of one caption."""
    return similarity * (1.0 - PENALTY * error)


def fluency_errors(texts: Sequence[str], folder: str | Path) -> list[bool]:
    """Whether each text has a fluency error.

    Args:
        texts: captions; case and punctuation are dropped, as in the detector's training.
        folder: the detector, see above.

    Raises:
        DataError: the folder cannot be used.
    """
    probabilities = error_probabilities(texts, Path(folder))
    return [bool(probability > THRESHOLD) for probability in probabilities]


@torch.inference_mode()
def error_probabilities(texts: Sequence[str], folder: Path) -> Tensor:
    """Probability of an error of each text, float32 [texts]; the rest is as of :func:`fluency_errors`."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder, classifier = _load(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"fluency_model: {folder} cannot be loaded ({error})") from error
    found = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            [_NO_WORD.sub("", text).lower() for text in texts[start : start + _BATCH]],
            padding=True,
            truncation=True,
            max_length=_TOKENS,
            return_tensors="pt",
        )
        found.append(classifier(encoder(**batch).last_hidden_state[:, 0]).sigmoid()[:, _ERROR])
    return torch.cat(found)


def _load(folder: Path) -> tuple[nn.Module, nn.Linear]:
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel

    state = load_file(folder / "model.safetensors")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    weight, bias = state.pop("clf.weight"), state.pop("clf.bias")
    if len(weight) != _ERROR + 1:
        raise ValueError(f"its classifier knows {len(weight)} classes; expected {_ERROR + 1}")
    with torch.random.fork_rng(devices=[]):
        encoder, classifier = AutoModel.from_config(config), nn.Linear(weight.shape[1], len(weight))
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in state.items()})
    classifier.load_state_dict({"weight": weight, "bias": bias})
    return encoder.float().eval(), classifier.float()
