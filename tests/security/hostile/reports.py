"""Reports and studies."""

from __future__ import annotations

from pathlib import Path

from audiolm_compress.report.compare.files import read_runs
from audiolm_compress.search.storage import open_storage

from ..conftest import Clean
from .kinds import hostile


def storage(file: Path) -> object:
    return open_storage(str(file))


def report(clean: Clean, text: str, name: str = "report.json") -> list[Path]:
    (clean.place / name).write_text(text)
    return [clean.place / name]


@hostile(read_runs, r"report\.json: expected the JSON of a report, found no JSON \(nested deeper")
def report_nested_without_end(clean: Clean) -> list[Path]:
    return report(clean, '{"baseline":' * 100_000)


@hostile(
    read_runs, r"report\.json: expected the JSON of a report, found no JSON \(key 'schema' is given twice"
)
def report_with_two_schemas(clean: Clean) -> list[Path]:
    return report(clean, '{"schema": 1, "schema": 2, "baseline": {}, "candidate": {}}')


@hostile(read_runs, r"report\.json: .*NaN is no JSON number")
def report_with_nan(clean: Clean) -> list[Path]:
    return report(clean, '{"schema": 2, "baseline": NaN, "candidate": {}}')


@hostile(read_runs, r"bench\.json: has the schema of a benchmark, but is damaged")
def benchmark_of_another_form(clean: Clean) -> list[Path]:
    return report(clean, '{"schema": 1, "names": 5, "sides": [[]], "differences": 7}', "bench.json")


@hostile(read_runs, r"report\.json: cannot be read: has \d+ bytes, more than")
def report_of_a_gigabyte(clean: Clean) -> list[Path]:
    files = report(clean, "{}")
    with files[0].open("r+b") as file:
        file.truncate(2**30)
    return files


@hostile(storage, r"search: cannot open the storage .*study\.db")
def study_that_is_no_database(clean: Clean) -> Path:
    (clean.place / "study.db").write_bytes(b"no database" * 1000)
    return clean.place / "study.db"


@hostile(storage, r"search: cannot open the storage .*study\.journal")
def study_with_a_damaged_journal(clean: Clean) -> Path:
    (clean.place / "study.journal").write_text('{"op_code": 99\n{"op_code": 0, "worker_id": []}\n')
    return clean.place / "study.journal"
