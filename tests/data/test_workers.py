"""Work in several processes: in order, and told if a process is gone."""

from __future__ import annotations

import os

import pytest

from audiolm_compress.data.workers import in_processes
from audiolm_compress.errors import DataError


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order(workers: int) -> None:
    jobs = range(-50, 0)
    assert list(in_processes(abs, iter(jobs), workers)) == [(job, -job) for job in jobs]


def test_a_process_that_was_ended_is_told() -> None:
    with pytest.raises(DataError, match="fewer --workers"):
        list(in_processes(os._exit, [3], 2))
