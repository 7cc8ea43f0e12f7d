"""The repository's pages, taken apart into their code blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from click.testing import CliRunner

from audiolm_compress.cli import cli

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?(?:^`(?P<name>[\w./-]+)`:\n\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_SHELL_WORDS = {"do", "then"}
_OWN_OF_SHELL = {"for", "done", "export"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file it stands in.
        line: number of its first line in there.
        language: what follows the fence.
        text: what stands between the fences.
        name: the file that the text is to be saved as, if the page says so in the paragraph before.
        reason: why it is not run; "" if it is.
    """

    page: Path
    line: int
    language: str
    text: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page whose code is promised to work."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("examples/**/*.md")),
    ]


def blocks(*languages: str, page: str | None = None) -> list[Block]:
    """The blocks in these languages, of all pages or of one."""
    found = []
    for file in pages() if page is None else [ROOT / page]:
        text = file.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text[: match.start("text")].count("\n") + 1
            content = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            name, reason = match["name"] or "", match["reason"] or ""
            found.append(Block(file, line, match["language"], content, name, reason))
    return [block for block in found if block.language in languages]


def commands(block: Block) -> list[list[str]]:
    """Words of each command in a block of shell lines, without what is set before it, redirected or piped."""
    found: list[list[str]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        command: list[str] = []
        left_off = False
        for word in [*lexer, ";"]:
            if word in (";", "&&"):
                found.append(command)
                command, left_off = [], False
            elif set(word) <= set("|<>"):
                left_off = True
            elif not left_off and (command or not (word in _SHELL_WORDS or re.fullmatch(r"\w+=.*", word))):
                command.append(word)
    return [words for words in found if words and words[0] not in _OWN_OF_SHELL]


def own_arguments(words: Sequence[str]) -> list[str] | None:
    """What is given to this package's command, also under ``accelerate launch``; None if it is another's."""
    if words[0] == "audiolm-compress":
        return list(words[1:])
    if words[0] == "accelerate" and "audiolm_compress" in words:
        return list(words[words.index("audiolm_compress") + 1 :])
    return None


def parsed(program: click.Group, arguments: Sequence[str]) -> click.Context:
    """The context in which click would call the last sub-command, every argument checked by its own type.

    Raises:
        click.UsageError: no such command, option, choice or number of arguments.
    """
    command: click.Command = program
    context, rest = click.Context(program, info_name="audiolm-compress"), list(arguments)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    assert context.parent is not None
    try:
        return command.make_context(context.info_name, rest, parent=context.parent)
    except click.exceptions.Exit:  # it asks for help
        return context


def named_paths(text: str) -> Iterator[str]:
    """What a page writes in backquotes like a path of the repository, and what it links to."""
    for word in re.findall(r"`([\w.\-/]+)`", text):
        if re.fullmatch(r"(?:audiolm_compress|tests|docs|examples|recipes|benchmarks)/[\w.\-/]*", word):
            yield word
    yield from (target for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", text))


def assert_printed(block: Block) -> None:
    """The block is a command behind ``$`` and what it prints."""
    command, shown = block.text.split("\n", 1)
    arguments = own_arguments(shlex.split(command)[1:])
    assert arguments is not None, block
    done = CliRunner().invoke(cli, arguments, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert "".join(f"{line.rstrip()}\n" for line in done.output.splitlines()).strip() == shown.strip()
