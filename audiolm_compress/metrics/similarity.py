"""How near a caption is in meaning to its references, by a sentence encoder: the first half of FENSE.

    similarity = mean over references r of cos(e(candidate), e(r))        arXiv:2110.04684

where e(text) is the mean of the encoder's token vectors (arXiv:1908.10084). Unlike CIDEr-D it knows synonyms,
needs no other clips and no Java. The paper's encoder is ``paraphrase-TinyBERT-L6-v2``; figures of different
encoders cannot be compared. The encoder comes from a folder of this machine: nothing is downloaded, and of a
folder nothing is executed, which is why it is not opened by sentence-transformers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from audiolm_compress.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 32
_MODULES = {"Transformer", "Pooling", "Normalize"}  # of sentence-transformers, whose work is done here
_LENGTH = 512  # tokens, where a folder names no limit


def mean_pooled(vectors: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each text.

    Args:
        vectors: float [texts, tokens, width].
        mask: [texts, tokens], 1 for a token, 0 for padding.

    Returns:
        Float [texts, width].
    """
    weights = mask[..., None].to(vectors.dtype)
    return (vectors * weights).sum(1) / weights.sum(1)


def mean_cosine(candidate: Tensor, references: Tensor) -> float:
    """Mean cosine of the angle between one vector [width] and several [references, width]."""
    return float((normalize(references, dim=-1) @ normalize(candidate, dim=-1)).mean())


def sentence_similarity(
    candidates: Sequence[str], references: Sequence[Sequence[str]], folder: str | Path
) -> list[float]:
    """Similarity of each caption with its references, from -1 to 1.

    Args:
        candidates: one caption a clip, compared as it is written.
        references: of each clip, at least one.
        folder: sentence encoder: config.json, tokenizer and model.safetensors; where it is that of
            sentence-transformers, it must take the mean of its token vectors, as FENSE's does.

    Raises:
        DataError: the numbers differ, a clip has no reference, or the folder cannot be used.
    """
    if len(candidates) != len(references) or not all(references):
        raise DataError(
            f"similarity: {len(candidates)} captions for {len(references)} clips, of which "
            f"{sum(not texts for texts in references)} have no reference; give each a caption and references"
        )
    distinct = list(dict.fromkeys([*candidates, *(text for texts in references for text in texts)]))
    vectors = dict(zip(distinct, _embedded(distinct, Path(folder)), strict=True))
    return [
        mean_cosine(vectors[candidate], torch.stack([vectors[text] for text in texts]))
        for candidate, texts in zip(candidates, references, strict=True)
    ]


@torch.inference_mode()
def _embedded(texts: Sequence[str], folder: Path) -> Tensor:
    """Float32 [texts, width]."""
    length = _length(folder)
    tokenizer, model = _load(folder)
    found = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[start : start + _BATCH]),
            padding=True,
            truncation=True,
            max_length=min(length, tokenizer.model_max_length),
            return_tensors="pt",
        )
        found.append(mean_pooled(model(**batch).last_hidden_state, batch["attention_mask"]))
    return torch.cat(found)


def _load(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    from transformers import AutoModel, AutoTokenizer

    with torch.random.fork_rng(devices=[]):  # a pooler that the folder lacks is drawn, and not used
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, loading = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"sentence_model: {folder} cannot be loaded ({error})") from error
    if missing := sorted(name for name in loading["missing_keys"] if not name.startswith("pooler.")):
        raise DataError(
            f"sentence_model: {folder} lacks {len(missing)} weights of its encoder, such as {missing[0]}"
        )
    return tokenizer, model.eval()


def _length(folder: Path) -> int:
    """Most tokens of a text.

    Raises:
        DataError: the encoder does something else with its token vectors than to take their mean.
    """
    modules = [module["type"].rpartition(".")[2] for module in _json(folder / "modules.json", [])]
    pooling = _json(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    modes = {name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True}
    mean = pooling.get("pooling_mode") == "mean" or modes == {"pooling_mode_mean_tokens"}
    if not mean or not set(modules) <= _MODULES:
        raise DataError(
            f"sentence_model: {folder} is made of {', '.join(modules) or 'another pooling'}; expected an "
            "encoder that takes the mean of its token vectors and no more, as paraphrase-TinyBERT-L6-v2 does"
        )
    return int(_json(folder / "sentence_bert_config.json", {}).get("max_seq_length") or _LENGTH)


def _json(file: Path, default: Any) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else default
