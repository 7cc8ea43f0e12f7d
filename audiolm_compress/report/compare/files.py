"""From what a user names to runs: files are found, read and checked; all that is wrong is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.errors import DataError
from audiolm_compress.report.benchmark import Benchmark, distinct
from audiolm_compress.report.compare.run import Run
from audiolm_compress.report.report import Report
from audiolm_compress.untrusted import parse_json, read_text

_BYTES = 256 * 2**20  # of a report; 200 kB a hundred clips
_FILES = ("report.json", "bench.json")


def read_runs(places: Sequence[str | Path]) -> tuple[Run, ...]:
    """Every run in ``places``, in the order given, each file once.

    Args:
        places: folders with report.json or bench.json, such files under any name, or folders of runs.

    Raises:
        DataError: some of them are no runs or cannot be read; all are listed.
    """
    files: list[Path] = []
    problems: list[str] = []
    for place in map(Path, places):
        try:
            files += [file for file in find(place) if file not in files]
        except DataError as error:
            problems.append(str(error))
    read: list[tuple[Path, Report | Benchmark]] = []
    for file in files:
        try:
            read.append((file, _read(file)))
        except DataError as error:
            problems.append(f"{file}: {error}")
    if problems:
        total = len(problems) + len(read)
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise DataError(
            f"compare: asked for {total} {'run' if total == 1 else 'runs'}, of which {len(problems)} cannot "
            f"be compared; correct or leave out:{listed}"
        )
    return _named(read)


def find(place: Path) -> list[Path]:
    """The files of the runs in a place: its own, else those of the folders below it, in order of their names.

    Raises:
        DataError: there are none.
    """
    if place.is_file():
        return [place]
    if not place.exists():
        raise DataError(
            f"{place}: no such file or folder; name a run's folder, its report.json or bench.json"
        )
    found = [place / name for name in _FILES if (place / name).is_file()]
    if not found:
        below = (file for name in _FILES for file in place.rglob(name))
        # A folder whose name begins with a dot is that of a run which goes on or was killed.
        found = sorted(file for file in below if not _is_hidden(file.relative_to(place)))
    if not found:
        raise DataError(
            f"{place}: found no {' and no '.join(_FILES)} in it or below; run a recipe with --out, or bench "
            "models with --out"
        )
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read(file: Path) -> Report | Benchmark:
    """What a file holds, told by its content."""
    try:
        text = read_text(file, _BYTES)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}") from error
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"expected the JSON of a report, found no JSON ({error}); make it anew") from error
    kind: type[Report | Benchmark] = Report
    if isinstance(content, dict) and {"names", "sides"} <= content.keys():
        kind = Benchmark
    elif not isinstance(content, dict) or not {"baseline", "candidate"} <= content.keys():
        raise DataError("expected a report.json or a bench.json, found other JSON; name one of these")
    try:
        return kind.from_json(text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(
            f"has the schema of a {kind.__name__.lower()}, but is damaged ({what}); make it anew"
        ) from error


def _named(read: Sequence[tuple[Path, Report | Benchmark]]) -> tuple[Run, ...]:
    """Reports under the ends of their paths that tell them apart, models of benchmarks under their names."""
    reports = [_place(file) for file, found in read if isinstance(found, Report)]
    ends = dict(zip(reports, _ends(reports), strict=True))
    runs: list[Run] = []
    for file, found in read:
        if isinstance(found, Report):
            name = ends[_place(file)]
            goals = tuple(found.goals)
            runs.append(Run(name, file, found.candidate, found.baseline, found.differences, goals))
        elif len(found.sides) == 1:
            runs.append(Run(found.names[0], file, found.baseline))
        else:
            runs += [
                Run(name, file, side, found.baseline, differences)
                for name, side, differences in found.candidates()
            ]
    names = distinct([run.name for run in runs])
    return tuple(
        Run(name, run.file, run.side, run.baseline, run.differences, run.goals)
        for name, run in zip(names, runs, strict=True)
    )


def _place(file: Path) -> Path:
    """What names a run: its folder, or its file where that has a name of its own."""
    file = file.absolute()
    return file.parent if file.name in _FILES else file.with_suffix("")


def _ends(places: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that are all different.

    >>> _ends([Path("/out/a"), Path("/out/b")])
    ['a', 'b']
    >>> _ends([Path("/one/trials/0"), Path("/two/trials/0")])
    ['one/trials/0', 'two/trials/0']
    """
    longest = max((len(place.parts) for place in places), default=0)
    ends: list[str] = []
    for length in range(1, longest + 1):
        ends = [str(Path(*place.parts[-length:])) for place in places]
        if len(set(ends)) == len(set(places)):
            break
    return ends
