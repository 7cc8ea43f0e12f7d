"""Two vocabularies of byte-pair units, trained on the texts that the model is to write.

`train_tokenizer` makes the language model's: like Gemma's it marks spaces with U+2581, splits unknown
characters into bytes and begins with pad, eos, bos and unk. `train_units` makes the small one of the
auxiliary CTC loss, which inference does not use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_SPACE = "\u2581"


def _parts() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer, decoders.Decoder]:
    return (
        normalizers.Replace(" ", _SPACE),
        pre_tokenizers.Split(_SPACE, "merged_with_next"),
        decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]),
    )


def train_tokenizer(texts: Iterable[str], size: int = 4096) -> PreTrainedTokenizerFast:
    """The language model's tokenizer: 4 special tokens, 256 bytes, and units learned from ``texts``."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.normalizer, trained.pre_tokenizer, trained.decoder = _parts()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*SPECIAL, *tokens], show_progress=False)
    trained.train_from_iterator(texts, trainer)
    # Built again from vocabulary and merges: byte tokens are no special tokens once training is over.
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    final = Tokenizer(
        models.BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    final.normalizer, final.pre_tokenizer, final.decoder = _parts()
    final.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=final,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def train_units(texts: Iterable[str], size: int = 512) -> Tokenizer:
    """Units of the CTC loss; unit 0 is the blank."""
    units = Tokenizer(models.BPE())
    units.normalizer, units.pre_tokenizer, units.decoder = _parts()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<blank>"], show_progress=False)
    units.train_from_iterator(texts, trainer)
    return units
