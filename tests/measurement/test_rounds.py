"""Rounds share out runs, and wait for their turn."""

from __future__ import annotations

import io
import json

import pytest
import torch

from audiolm_compress.measurement.reporter import Reporter
from audiolm_compress.measurement.rounds import Rounds

CPU = torch.device("cpu")


def heard(stream: io.StringIO) -> list[str]:
    """What was said, advances as dots."""
    lines = []
    for message in map(json.loads, stream.getvalue().splitlines()):
        if "start" in message:
            lines.append(f"{message['start']} {message['total']}")
        else:
            lines.append("." if "advance" in message else message["pause"])
    return lines


@pytest.mark.parametrize(
    ("count", "rounds", "sizes"), [(10, 4, [2, 3, 2, 3]), (3, 4, [1, 1, 1]), (5, 1, [5])]
)
def test_every_run_is_in_one_round(count: int, rounds: int, sizes: list[int]) -> None:
    timed = Rounds(CPU, rounds, Reporter(io.StringIO())).time("timing", count, 2, lambda index: index)
    assert [len(one) for one in timed.rounds] == sizes
    assert timed.runs == list(range(count))


def test_each_round_waits_for_its_turn_and_warms_up() -> None:
    stream, called = io.StringIO(), []
    reporter = Reporter(stream, io.StringIO("\n" * 2))
    Rounds(CPU, 2, reporter, in_turns=True).time("timing", 4, 3, called.append)
    assert called == [0, 1, 0, 0, 1, 2, 2, 3]
    assert heard(stream) == ["turn", "timing 8", *"." * 5, "turn", *"." * 3]


def test_nothing_warms_up_where_that_is_asked_for() -> None:
    called: list[int] = []
    Rounds(CPU, 2, Reporter(io.StringIO())).time("timing", 4, 0, called.append)
    assert called == [0, 1, 2, 3]


def test_a_process_that_was_left_ends() -> None:
    with pytest.raises(SystemExit):
        Reporter(io.StringIO(), io.StringIO("")).pause("turn")
