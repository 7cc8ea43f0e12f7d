"""Any number of models on the same clips: what each is, and how it differs from the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm_compress.measurement.csv_files import write_clip_csv
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.report.differences import differences
from audiolm_compress.report.json_form import read, read_paired, written

if TYPE_CHECKING:
    from rich.console import RenderableType

    from audiolm_compress.report.html.settings import PageSettings

SCHEMA = 1  # of bench.json


@dataclass(frozen=True)
class Benchmark:
    """Models that were measured in the same way.

    Attributes:
        names: of the models, all different; the first is the baseline.
        sides: their measurements.
        differences: of each model after the first from the first: score -> paired comparison.
        environment: machine, versions, commit, seed.
        notes: on the benchmark as a whole.
    """

    names: tuple[str, ...]
    sides: tuple[Measurements, ...]
    differences: tuple[Mapping[str, PairedResult], ...]
    environment: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        sides: Sequence[Measurements],
        *,
        environment: Mapping[str, Any],
        notes: Sequence[str] = (),
        seed: int = 0,
    ) -> Benchmark:
        """Compare measured models with the first of them.

        Args:
            names: one a model; a name that comes again is given a number.
            sides: at least one.
            environment: see ``describe_environment``.
            notes: on the benchmark as a whole.
            seed: of the bootstrap and of the randomisation test.

        Raises:
            DataError: they were not measured on the same clips.
        """
        baseline, *others = sides
        return cls(
            names=distinct(names),
            sides=tuple(sides),
            differences=tuple(differences(baseline, other, seed=seed) for other in others),
            environment=environment,
            notes=tuple(notes),
        )

    @property
    def named(self) -> dict[str, Measurements]:
        """Name -> measurements, the baseline first."""
        return dict(zip(self.names, self.sides, strict=True))

    @property
    def baseline(self) -> Measurements:
        """The first model."""
        return self.sides[0]

    def candidates(self) -> Iterator[tuple[str, Measurements, Mapping[str, PairedResult]]]:
        """Name, measurements and differences of each model after the first."""
        return zip(self.names[1:], self.sides[1:], self.differences, strict=True)

    def to_json(self) -> str:
        """The whole benchmark; :meth:`from_json` reads it back equal."""
        return written(
            {
                "schema": SCHEMA,
                "names": self.names,
                "sides": [side.to_dict() for side in self.sides],
                "differences": [
                    {score: asdict(result) for score, result in found.items()} for found in self.differences
                ],
                "environment": self.environment,
                "notes": self.notes,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Benchmark:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: it is no benchmark, or one in the form of another version.
        """
        content = read(text, "benchmark", SCHEMA, ("names", "sides"))
        return cls(
            names=tuple(content["names"]),
            sides=tuple(Measurements.from_dict(side) for side in content["sides"]),
            differences=tuple(
                {score: read_paired(result) for score, result in found.items()}
                for found in content["differences"]
            ),
            environment=content["environment"],
            notes=tuple(content["notes"]),
        )

    def table(self) -> str:
        """The benchmark as plain text, 80 columns wide."""
        from audiolm_compress.report.plain_text import plain_text

        return plain_text(self, 80)

    def __rich__(self) -> RenderableType:
        """The benchmark for a terminal."""
        from audiolm_compress.report.benchmark_table import render

        return render(self)

    def to_markdown(self) -> str:
        """Figures, differences, how it was measured, sample answers and the machine."""
        from audiolm_compress.report.benchmark_table import markdown

        return markdown(self)

    def to_html(self, settings: PageSettings | None = None) -> str:
        """The benchmark as one page that needs no network: plots, and every clip to hear and to read.

        Args:
            settings: how many clips, and how much of their audio. Their files are read now; of those that are
                gone, the page says so.
        """
        from audiolm_compress.report.html import of_benchmark, render

        return render(of_benchmark(self), settings)

    def write(self, folder: str | Path) -> list[Path]:
        """Write bench.json, bench.md, bench.html and the answers of each model as CSV.

        Args:
            folder: is made if it does not exist; files of these names in it are overwritten.

        Returns:
            The files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        documents = {
            "bench.json": self.to_json(),
            "bench.md": self.to_markdown(),
            "bench.html": self.to_html(),
        }
        for name, text in documents.items():
            (folder / name).write_text(text, encoding="utf-8")
        files = [folder / name for name in documents]
        for place, side in enumerate(self.sides):
            files += write_clip_csv(folder, f"model{place + 1}", side)
        return files


def called(models: Sequence[str]) -> tuple[str, ...]:
    """What tables call models: the last part of each path, or all of it where the last parts do not differ.

    >>> called(["tiny", "out/mine", "out/yours", "tiny"]), called(["a/mine", "b/mine"])
    (('tiny', 'mine', 'yours', 'tiny (2)'), ('a/mine', 'b/mine'))
    """
    last = {model: model.rstrip("/").rpartition("/")[2] for model in models}
    return distinct([last[model] for model in models] if len({*last.values()}) == len(last) else models)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of models that are named more than once are told apart by a number.

    >>> distinct(["tiny", "out/mine", "tiny"])
    ('tiny', 'out/mine', 'tiny (2)')
    """
    found: list[str] = []
    for name in names:
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name} ({number})"
        found.append(own)
    return tuple(found)
