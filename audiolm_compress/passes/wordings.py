"""Ways to ask the same: paraphrases made of parts, and edits that keep the meaning.

Edits are those of GrIPS (Prasad et al., arXiv:2203.07281: delete, swap and paraphrase phrases) and what costs
a tokenizer nothing to try: case and the punctuation at the end. Everything is made of strings alone and in a
fixed order; a search chooses among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from audiolm_compress.salmonn.prompts import AUDIO_FRAME, AUDIO_SLOT

_PARAPHRASES = {
    "wer": (
        ("Transcribe", "Write down", "Recognize"),
        ("the speech", "what is said", "the spoken words"),
        ("What does the speaker say?", "What is said?", "Transcription", "Speech to text"),
    ),
    "cider_d": (
        ("Describe", "Caption", "Summarize"),
        ("the audio", "what is heard", "the sounds"),
        ("What can be heard?", "What is heard?", "Audio caption", "Sounds"),
    ),
}
# Longer forms and their shorter ones, and words that stand for each other, both ways.
_SHORTER = (
    (r"\bplease ", ""),
    (r"\b(give|tell) me ", ""),
    (r"\b(can|could) you ", ""),
    (r"\b(the|a|an) ", ""),
    (r" in detail\b", ""),
    (r" into a written format\b", ""),
    (r"\bspoken words\b", "words"),
)
_SYNONYMS = (
    ("describe", "caption"),
    ("recognize", "transcribe"),
    ("speech", "words"),
    ("audio", "sound"),
    ("say", "tell"),
    ("heard", "perceived"),
    ("transcription", "transcript"),
)
_INSTRUCTION = re.compile(rf"(.*{re.escape(AUDIO_SLOT)}(?:</Speech>)?\s*)(.*)", re.DOTALL)
_PHRASE = re.compile(r"(?<=[.,;:!?])\s+|\s+(?=and\b)")


@dataclass(frozen=True)
class Wording:
    """What is put around the audio: an instruction with the audio's place, and the template around it."""

    template: str
    instruction: str

    @property
    def lead(self) -> str:
        """The instruction up to the end of the audio's frame."""
        return self._parts()[0]

    @property
    def words(self) -> str:
        """The instruction behind it."""
        return self._parts()[1]

    def with_words(self, text: str) -> Wording:
        """Another instruction: a whole one if ``text`` has the audio's place, else with these words."""
        return Wording(self.template, text if AUDIO_SLOT in text else self.lead + text)

    def _parts(self) -> tuple[str, str]:
        match = _INSTRUCTION.fullmatch(self.instruction)
        return (match[1], match[2]) if match else (AUDIO_FRAME, self.instruction)


def paraphrases(metric: str) -> list[str]:
    """Plain ways to ask for a transcript (``wer``) or a caption (``cider_d``).

    >>> paraphrases("wer")[0]
    'Transcribe the speech.'
    """
    verbs, objects, others = _PARAPHRASES[metric]
    return [f"{verb} {thing}." for verb, thing in product(verbs, objects)] + list(others)


def edits(words: str) -> list[str]:
    """Texts one edit away: a phrase dropped or moved, shorter forms, other words, case, end; each once.

    >>> edits("Please listen, and describe the audio.")[:3]
    ['Please listen,', 'and describe the audio.', 'and describe the audio. Please listen,']
    """
    phrases = [phrase for phrase in _PHRASE.split(words) if phrase]
    found: list[str] = []
    if len(phrases) > 1:
        found += [" ".join(phrases[:i] + phrases[i + 1 :]) for i in reversed(range(len(phrases)))]
        found += [" ".join(phrases[i:] + phrases[:i]) for i in range(1, len(phrases))]
    found += [re.sub(pattern, to, words, flags=re.IGNORECASE) for pattern, to in _SHORTER]
    for one, other in _SYNONYMS:
        found += [_exchanged(words, one, other), _exchanged(words, other, one)]
    bare = words.rstrip(" .:?!")
    found += [bare, f"{bare}.", f"{bare}:", words.lower(), _capital(words)]
    return _once((" ".join(text.split(" ")).strip() for text in found), words)


def template_edits(template: str) -> list[str]:
    r"""The template without one of its lines, those with the place of the instruction excepted.

    >>> template_edits("You hear well.\nUSER: {}\nASSISTANT:")
    ['USER: {}\nASSISTANT:', 'You hear well.\nUSER: {}']
    """
    lines = template.split("\n")
    shorter = (
        "\n".join(lines[:place] + lines[place + 1 :]) for place, line in enumerate(lines) if "{}" not in line
    )
    return _once(shorter, template)


def framings(template: str, systems: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Other templates: those given, and each of all with each system text on the lines before it."""
    bodies = [template, *templates]
    return _once([*templates, *(f"{system}\n{body}" for system in systems for body in bodies)], template)


def neighbours(wording: Wording) -> list[Wording]:
    """One edit away, in the words or in the template."""
    return [
        *(wording.with_words(text) for text in edits(wording.words)),
        *(Wording(template, wording.instruction) for template in template_edits(wording.template)),
    ]


def crossed(one: Wording, other: Wording) -> list[Wording]:
    """Each with the other's template, where these differ."""
    if one.template == other.template or one.instruction == other.instruction:
        return []
    return [Wording(other.template, one.instruction), Wording(one.template, other.instruction)]


def _exchanged(text: str, word: str, other: str) -> str:
    return re.sub(
        rf"\b{word}\b", lambda match: other.capitalize() if match[0][0].isupper() else other, text, flags=re.I
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _once(texts: Iterable[str], besides: str) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text != besides]
