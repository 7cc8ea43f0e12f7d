"""Every clip to hear and to read: what was said, and what each model made of it.

Recognition is marked against the reference, in the words that the word error rate compares. Captions and
answers can be right in other words, so they are marked against the first model's.
"""

from __future__ import annotations

from collections.abc import Sequence

from audiolm_compress.measurement.measurements import ClipResult
from audiolm_compress.metrics.wer import comparable_words
from audiolm_compress.report.html import clip_scores
from audiolm_compress.report.html.alignment import Word, aligned
from audiolm_compress.report.html.audio import HOW_AUDIO_IS_KEPT, AudioShelf
from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.markup import Markup, element, foreign, hidden, joined
from audiolm_compress.report.html.settings import PageSettings
from audiolm_compress.report.html.verdict import chip, plain_name, quiet

_ORDERS = {
    "worse": "worse first",
    "better": "better first",
    "id": "by name",
    "longest": "longest first",
    "shortest": "shortest first",
}
_WHICH = {"": "all", "changed": "answer changed", "worse": "scored worse", "better": "scored better"}


def clips(content: Content, settings: PageSettings) -> Markup:
    """The browser, the clip that got worst first."""
    names, sides = list(content.sides), [side.clips for side in content.sides.values()]
    worse = clip_scores.worsening(sides[0], sides[-1])
    listed = sorted(range(len(worse)), key=lambda i: -abs(worse[i]))[: settings.clips]
    shelf = AudioShelf(settings)
    heard = {i: shelf.take(sides[0][i].path) for i in listed}  # those that changed most get theirs first
    listed.sort(key=lambda i: -worse[i])
    shown = [_clip(names, [side[i] for side in sides], worse[i], heard[i]) for i in listed]
    tasks = list(dict.fromkeys(clip.task for clip in sides[0]))
    told = [f"{shelf.clips} of {len(worse)} clips can be played; {HOW_AUDIO_IS_KEPT}."]
    if shelf.left_out:
        told.append(
            f"{shelf.left_out} are left out, as the page holds at most {settings.audio_clips} of them and "
            f"{settings.audio_mib:g} MiB."
        )
    if len(listed) < len(worse):
        told.append(f"{len(worse) - len(listed)} clips are not listed, those that changed least.")
    if len(names) > 2:
        told.append(f"Worse and better are those of {names[-1]}.")
    return joined(
        [
            element("p", " ".join(told), class_="note"),
            _key(),
            _controls(tasks, len(listed)),
            element("div", *shown, id="clip-list"),
        ]
    )


def _clip(names: Sequence[str], sides: Sequence[ClipResult], worse: float, heard: tuple[str, str]) -> Markup:
    first = sides[0]
    about = [plain_name(first.task), f"{first.seconds:.1f} s", *filter(None, [first.source])]
    changed = any(side.text != first.text for side in sides)
    return element(
        "article",
        element(
            "div",
            element("h3", foreign(first.testset_id)),
            quiet(" · ".join(about)),
            _verdict(worse, changed) if len(sides) > 1 else None,
            class_="head",
        ),
        _sound(first, heard),
        element("dl", *_texts(names, sides), class_="says"),
        class_="clip",
        data_id=first.testset_id,
        data_task=first.task,
        data_seconds=f"{first.seconds:.3f}",
        data_worse=f"{worse:.6f}",
        data_changed="yes" if changed else "no",
    )


def _verdict(worse: float, changed: bool) -> Markup:
    if worse:
        return chip("worse", "worse") if worse > 0 else chip("better", "better")
    return chip("same score", "even") if changed else chip("same answer", "even")


def _sound(clip: ClipResult, heard: tuple[str, str]) -> Markup:
    address, reason = heard
    if not address:
        return element("p", reason[:1].upper() + reason[1:], class_="silent")
    return element("audio", controls=True, preload="none", src=address, aria_label=f"Clip {clip.testset_id}")


def _texts(names: Sequence[str], sides: Sequence[ClipResult]) -> list[Markup]:
    first = sides[0]
    spoken = first.kind == "asr"
    title = "reference" if len(first.references) < 2 else "references"
    told = [_said(title, joined(element("div", foreign(text)) for text in first.references), "")]
    for index, (name, side) in enumerate(zip(names, sides, strict=True)):
        if not side.text.strip():
            answer = quiet("no answer")
        elif spoken and side.references:
            answer = _recognised(side)
        elif index and not spoken:
            answer = _marked(aligned(first.text.split(), side.text.split()))
        else:
            answer = foreign(side.text)
        told.append(_said(name, answer, clip_scores.in_words(side)))
    return told


def _said(who: str, text: Markup, score: str) -> Markup:
    scored = element("dd", score, class_="score") if score else None
    return element("div", element("dt", who), element("dd", text), scored)


def _recognised(clip: ClipResult) -> Markup:
    """Marked in comparable words, and as it was answered where that reads otherwise."""
    words = comparable_words(clip.text)
    marked = _marked(aligned(comparable_words(clip.references[0]), words))
    if clip.text.lower().split() == words:
        return marked
    return joined([marked, element("span", "answered: ", foreign(clip.text), class_="also")])


def _marked(words: Sequence[Word]) -> Markup:
    return element("bdi", joined([_word(word) for word in words], " "))


def _word(word: Word) -> Markup:
    if word.kind == "substitute":
        title = f"instead of: {word.instead_of}"
        return element("mark", word.text, hidden(f" ({title})"), title=title)
    if word.kind == "delete":
        return element("del", word.text, hidden(" (missing)"), title="missing")
    if word.kind == "insert":
        return element("ins", word.text, hidden(" (added)"), title="added")
    return joined([word.text])


def _key() -> Markup:
    return element(
        "p",
        element("span", element("mark", "other word"), " in place of the right one"),
        element("span", element("del", "missing"), " word"),
        element("span", element("ins", "added"), " word"),
        element("span", "recognition against the reference; captions and answers against the first model's"),
        class_="key",
    )


def _controls(tasks: Sequence[str], count: int) -> Markup:
    named = {"": "all", **{task: plain_name(task) for task in tasks}}
    return joined(
        [
            element(
                "div",
                element("label", "Search", element("input", type="search", id="search"), class_="wide"),
                _select("task", "Task", named),
                _select("which", "Show", _WHICH),
                _select("order", "Order", _ORDERS),
                class_="controls",
                id="controls",
                hidden=True,
            ),
            element("p", f"{count} clips", id="count", class_="note", role="status"),
        ]
    )


def _select(name: str, title: str, options: dict[str, str]) -> Markup:
    listed = [element("option", shown, value=value) for value, shown in options.items()]
    return element("label", title, element("select", *listed, id=name))
