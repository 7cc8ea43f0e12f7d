"""The frame of a page: head with its policy, header, navigation, sections and footer.

The policy in the head lets a browser load nothing but the sounds that are written in the page, and run
nothing but ``page.js`` as it was packaged; text that got into the page cannot become a script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files

from audiolm_compress.report.html.markup import Markup, element


def document(title: str, lead: str, sections: Mapping[str, Markup], *, kind: str, version: str) -> str:
    """The whole document.

    Args:
        title: heading of the page.
        lead: one sentence below it.
        sections: by their headings; empty ones are left out.
        kind: what the page is, such as ``Compression report``.
        version: of this package where the figures were made.
    """
    shown = {heading: inner for heading, inner in sections.items() if inner}
    body = element(
        "body",
        element("a", "Skip to the figures", href="#summary", class_="skip"),
        _header(title, lead, kind),
        _navigation(list(shown)),
        element("main", *(_section(heading, inner) for heading, inner in shown.items())),
        element("footer", element("div", f"audiolm-compress {version}")),
    )
    return "<!doctype html>\n" + element("html", _head(f"{title} · {kind}"), body, lang="en") + "\n"


def _head(title: str) -> Markup:
    style, script = _packaged("page.css"), _packaged("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
        element("script", script),
    )


def _packaged(name: str) -> Markup:
    """A file of this package, which holds nothing that would end its element."""
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _header(title: str, lead: str, kind: str) -> Markup:
    inner = [
        element("p", kind, class_="eyebrow"),
        element("h1", title),
        element("p", lead, class_="lead"),
    ]
    return element("header", element("div", *inner))


def _navigation(titles: list[str]) -> Markup:
    links = [element("li", element("a", title, href=f"#{_anchor(title)}")) for title in titles]
    button = element("button", "Theme", type="button", id="theme", title="Light or dark", hidden=True)
    return element("nav", element("div", element("ul", *links), button), aria_label="Sections")


def _section(title: str, inner: Markup) -> Markup:
    anchor = _anchor(title)
    heading = element("h2", title, id=f"{anchor}-title")
    return element("section", heading, inner, id=anchor, aria_labelledby=f"{anchor}-title")


def _anchor(title: str) -> str:
    return title.lower()
