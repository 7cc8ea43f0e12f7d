"""Keep the part of the vocabulary that the texts need.

A vocabulary made for all languages and for code is mostly idle in a model that transcribes one language, yet
its embedding and head are the largest matrices of a small LLM, and the head is read whole for every token:
Gemma-2-2B's has 256,000 rows of 2304 weights, 590 M of 2.6 B. Kept are

    K = closure(required + prompts + calibration + most frequent of the other texts + lowest ids)

where ``required`` spells any string (bytes or characters, special and added tokens), and the closure adds the
subwords that a token is merged from (salmonn/subwords.py says why a text in K then keeps its tokens). Rows of
kept tokens are copied, so their logits are the same; a probability becomes

    p'(t) = p(t) / sum of p(u) over u in K

With ``size`` the vocabulary is filled up to that number: first with tokens of ``texts``, the most frequent
first (equally frequent ones by id), then with tokens that were not seen, by id. Ids follow the order of
merging (BPE) or of score (Unigram), so lower ids are the more general tokens.

When it helps: always for memory and for the time of a token; the larger the vocabulary, the more. What it
costs: words that no given text has are written in more tokens, and in tokens that the LLM was not trained to
write them in, so they are often missed. ``held_out_length`` in the report tells how many more: tokens of one
half of the calibration texts with the vocabulary that the same settings and the other half give, relative to
the whole vocabulary. Give ``texts`` of the domain, or a generous ``size``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, ValidationInfo

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.example import Example
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.subwords import Subwords
from audiolm_compress.salmonn.vocabulary import (
    config_ids,
    embedding_rows,
    head_bytes,
    open_vocabulary,
    prompt_texts,
    select_rows,
    token_ids,
    trim_vocabulary,
)
from audiolm_compress.settings import existing_file

LONGER = 1.05  # of held-out texts, from which on the report warns


def kept_share(counts: Counter[int], kept: set[int]) -> float:
    """The share of counted tokens that are in ``kept``."""
    return sum(count for number, count in counts.items() if number in kept) / counts.total()


def choose_tokens(
    subwords: Subwords, required: Iterable[int], counts: Counter[int], size: int | None, round_to: int
) -> set[int]:
    """The ids to keep.

    Args:
        subwords: the whole vocabulary.
        required: ids that are kept in any case, and all their parts.
        counts: how often the texts have each token.
        size: how many tokens to keep in all; None: those that are required or counted.
        round_to: fill up to the next multiple of this, if the vocabulary has that many tokens.

    Raises:
        PassError: more than ``size`` are required.
    """
    kept = set().union(*map(subwords.with_parts, required))
    if size is None:
        kept = kept.union(*map(subwords.with_parts, counts))
    elif size < len(kept):
        raise PassError(
            f"vocab_trim: size={size}, but {len(kept)} tokens must be kept: those that spell any text, "
            f"special tokens, and those of prompts and calibration texts; set size to at least {len(kept)}"
        )
    whole = len(kept | subwords.tokens.keys())
    target = min(max(size or 0, len(kept)), whole)
    rounded = -(-target // round_to) * round_to
    target = rounded if rounded <= whole else target
    frequent = sorted(counts, key=lambda number: (-counts[number], number))
    unseen = (number for number in sorted(subwords.tokens) if subwords.is_reachable(number))
    for number in chain(frequent, unseen):
        if len(kept) >= target:
            break
        if number not in kept:
            group = subwords.with_parts(number) - kept
            if len(kept) + len(group) <= target:
                kept |= group
    return kept


def read_texts(path: Path) -> list[str]:
    """The texts of a file: every reference of a SALMONN annotation (``.json``), else its non-empty lines.

    Raises:
        PassError: the file cannot be read, or has no text.
        DataError: an annotation has unusable entries.
    """
    if path.suffix == ".json" and path.is_file():
        return [text for entry in read_annotation(path) for text in (*entry.texts, entry.Q) if text.strip()]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PassError(f"vocab_trim: {path} cannot be read as text: {error}") from error
    if not any(line.strip() for line in lines):
        raise PassError(f"vocab_trim: {path} has no text; add lines or take it from texts")
    return [line for line in lines if line.strip()]


def references(model: Salmonn, examples: Sequence[Example]) -> list[str]:
    """What the LLM should write about clips: every reference text once a clip, with its end."""
    texts = (dict.fromkeys((example.text, *example.references)) for example in examples)
    return [text + model.end_symbol for text in chain.from_iterable(texts)]


def held_out_length(
    model: Salmonn,
    subwords: Subwords,
    required: set[int],
    further: Sequence[str],
    calibration: Sequence[Example],
    size: int | None,
    round_to: int,
) -> float:
    """Tokens of every second clip's references with a vocabulary chosen without them, over those they have.

    The ``further`` texts count, except those that are such a reference.
    """
    known, held_out = (references(model, calibration[start::2]) for start in (0, 1))
    apart = set(held_out)
    counts = count_tokens(model, [text for text in further if text not in apart])
    kept = choose_tokens(subwords, required.union(count_tokens(model, known)), counts, size, round_to)
    trimmed = subwords.trim(subwords.order(kept))
    after = sum(len(trimmed.encode(text, add_special_tokens=False)) for text in held_out)
    return after / count_tokens(model, held_out).total()


def count_tokens(model: Salmonn, texts: Sequence[str]) -> Counter[int]:
    """How often the texts have each token, by id."""
    return Counter(chain.from_iterable(token_ids(model.tokenizer, texts)))


def _text_file(path: Path, info: ValidationInfo) -> Path:
    return Path(existing_file(str(path), info))


class VocabTrim(Pass):
    """Remove tokens that the given texts do not need from embedding, head and tokenizer."""

    kind: Literal["vocab_trim"] = Field("vocab_trim", alias="pass")
    texts: tuple[Annotated[Path, AfterValidator(_text_file)], ...] = Field(
        (),
        description="Files of further texts: SALMONN annotations (.json) or plain text, a text a line; the "
        "calibration texts always count.",
    )
    size: int | None = Field(
        None, ge=1, description="Tokens to keep, filled up by frequency; unset: those that the texts have."
    )
    round_to: int = Field(
        64, ge=1, description="Keep the next multiple of this many tokens, which suits matrix kernels."
    )
    check_clips: int = Field(
        8, ge=1, description="Calibration clips whose loss is compared before and after."
    )

    def apply(self, model: Salmonn, context: Context) -> PassReport:
        """Choose the tokens and remove the others.

        Raises:
            PassError: ``size`` is too small, there are no calibration clips, a file of ``texts`` cannot be
                read, or the model's tokenizer, embedding or head cannot be trimmed.
        """
        if not context.calibration:
            raise PassError(
                "vocab_trim: no calibration clips, whose texts it must keep; give calibration data"
            )
        subwords = open_vocabulary(model)
        further = self._further(model)
        counts = count_tokens(model, further)
        fixed, calibration = self._kept_anyway(model, subwords, context.calibration)
        kept = choose_tokens(subwords, fixed.union(calibration), counts, self.size, self.round_to)
        rows = embedding_rows(model)
        if len(kept) == rows:
            return PassReport(changed=False, summary=f"all {rows} tokens of the vocabulary are to be kept")
        figures: dict[str, Any] = {
            "tokens_before": rows,
            "tokens": len(kept),
            "calibration_tokens_kept": kept_share(calibration, kept),
        }
        if counts:
            figures["text_tokens_kept"] = kept_share(counts, kept)
        if len(context.calibration) > 1:
            figures["held_out_length"] = held_out_length(
                model, subwords, fixed, further, context.calibration, self.size, self.round_to
            )
        clips = context.calibration[: self.check_clips]
        before = sum(model.weight_bytes().values())
        figures |= {"loss_before": calibration_loss(model, clips), "head_bytes_before": head_bytes(model)}
        trim_vocabulary(model, subwords, kept)
        figures |= {
            "loss": calibration_loss(model, clips),
            "head_bytes": head_bytes(model),
            "saved_bytes": before - sum(model.weight_bytes().values()),
        }
        return PassReport(
            changed=True,
            summary=f"{len(kept)} of {rows} tokens kept",
            figures=figures,
            notes=self._notes(subwords, rows, len(kept), figures.get("held_out_length", 1.0)),
        )

    def predict(self, sketch: Sketch) -> None:
        """The same choice, where the tokenizer is there; else ``size`` rows, which only stands for them."""
        model = sketch.model
        sketch.run_clips(2 * min(self.check_clips, sketch.calibration_clips))
        if sketch.tokenizer_known:
            subwords = open_vocabulary(model)
            fixed, calibration = self._kept_anyway(model, subwords, sketch.calibration)
            counts = count_tokens(model, self._further(model))
            kept = choose_tokens(subwords, fixed.union(calibration), counts, self.size, self.round_to)
            if len(kept) < embedding_rows(model):
                trim_vocabulary(model, subwords, kept)
        elif self.size is None:
            sketch.notes.append("how many tokens the texts need is not known without a tokenizer")
        else:
            rounded = -(-self.size // self.round_to) * self.round_to
            sketch.notes.append(f"{rounded} tokens are assumed, as there is no tokenizer to ask")
            select_rows(model, torch.arange(min(rounded, embedding_rows(model)), device=model.device))

    def rehearsed(self, model: Salmonn) -> Pass:
        """Without further texts, which ``predict`` has read."""
        return self.model_copy(update={"texts": (), "check_clips": 2})

    def _further(self, model: Salmonn) -> list[str]:
        """The texts of ``texts``, each with its end."""
        return [text + model.end_symbol for path in self.texts for text in read_texts(path)]

    def _kept_anyway(
        self, model: Salmonn, subwords: Subwords, examples: Sequence[Example]
    ) -> tuple[set[int], Counter[int]]:
        """Tokens that are kept whatever the clips say, and how often the clips' references have each."""
        asked = [
            text
            for example in examples
            for text in model.prompts.around(example.task, None, example.question)
        ]
        fixed = subwords.required() | config_ids(model)
        fixed = fixed.union(count_tokens(model, [*prompt_texts(model), *asked]))
        return fixed, count_tokens(model, references(model, examples))

    def _notes(self, subwords: Subwords, rows: int, kept: int, held_out: float) -> list[str]:
        notes = []
        if held_out > LONGER:
            notes.append(
                f"texts that were not given take {held_out:.2f} times as many tokens, and the LLM was not "
                "trained to write them like that; give more texts of the domain or a larger size"
            )
        if self.size is not None and kept != self.size:
            why = f"a multiple of {self.round_to}" if kept > self.size else "there are no more tokens to add"
            notes.append(f"{kept} tokens instead of {self.size}: {why}")
        if rows > len(subwords.tokens):
            notes.append(f"{rows - len(subwords.tokens)} rows of the embedding belonged to no token")
        return notes
