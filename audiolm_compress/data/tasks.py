"""What kind of work a task name of an annotation stands for."""

from __future__ import annotations

from typing import Literal

TaskKind = Literal["asr", "aac", "qa", "other"]


def task_kind(task: str) -> TaskKind:
    """Sort a free task name into the kinds that are prompted and scored alike.

    >>> task_kind("asr"), task_kind("audiocaption_v2"), task_kind("QA"), task_kind("gender_recognition")
    ('asr', 'aac', 'qa', 'other')
    """
    name = task.lower()
    if name.startswith(("audiocaption", "aac")):
        return "aac"
    if name.startswith("qa"):
        return "qa"
    if "asr" in name:
        return "asr"
    return "other"
