"""The entry points of ``fuzz.py`` under atheris, which goes on from the inputs that reach new lines.

    pip install atheris
    python -m tests.security.guided audio -max_total_time=600

The first argument is a target, the others are libFuzzer's; a folder among them collects what was found. No
part of the tests, as it never ends by itself and atheris has no wheels but for Linux.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fuzz import Target


def encoded(target: Target) -> list[bytes]:
    """The valid inputs as atheris takes them: which it is in a byte, then the content of the file."""
    contents = [clean if isinstance(clean, bytes) else clean[1] for clean in target.clean]
    return [bytes([number]) + content for number, content in enumerate(contents)]


def decoded(target: Target, data: bytes) -> Any:
    """The input of a target that bytes stand for, whatever they are."""
    clean = target.clean[data[0] % len(target.clean) if data else 0]
    return data[1:] if isinstance(clean, bytes) else (clean[0], data[1:])


def main() -> None:
    """Run until something other than an error of ours comes out, or libFuzzer's limits are reached."""
    import atheris

    with atheris.instrument_imports(include=["audiolm_compress"]):
        from audiolm_compress.errors import AudioLMError

        from .fuzz import targets

    name, *options = sys.argv[1:]
    place = Path(tempfile.mkdtemp())
    target = targets(place)[name]
    seeds = place / "seeds"
    seeds.mkdir()
    for number, data in enumerate(encoded(target)):
        (seeds / str(number)).write_bytes(data)

    def survives(data: bytes) -> None:
        with suppress(AudioLMError):
            target.read(place, decoded(target, data))

    atheris.Setup([sys.argv[0], *options, str(seeds)], survives)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
