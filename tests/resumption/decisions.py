"""Two processes of a launch keep models and take them: what they come to must be the same.

They are told apart by their clocks, and by what they see of the disk. Forked, as in ``kills.py``, so that
both share one import of everything.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from audiolm_compress.errors import AudioLMError
from audiolm_compress.kept_stages import stages_of
from audiolm_compress.passes.base import Silent
from audiolm_compress.report import Step
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.stage_keys import tensors_digest
from audiolm_compress.training.shards import disband

PARITY = Path(__file__).parents[1] / "fixtures" / "upstream_parity" / "llama"


def decided(folder: Path) -> list[list[Any]]:
    """What either process came to.

    Args:
        folder: for everything that is written.

    Raises:
        RuntimeError: a process failed otherwise; its error is on stderr.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    told, children = [folder / f"{rank}.json" for rank in (0, 1)], []
    for rank in (0, 1):
        children.append(os.fork())
        if children[-1] == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            _work(folder, rank, told[rank])
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise RuntimeError("a process that decides failed")
    return [json.loads(file.read_text(encoding="utf-8")) for file in told]


def _work(folder: Path, rank: int, told: Path) -> None:
    """In the child: never returns."""
    code = 1
    try:
        told.write_text(json.dumps(_decided(folder, rank)), encoding="utf-8")
        disband()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _decided(folder: Path, rank: int) -> list[Any]:
    """What one process decides, in the order in which it does."""
    model, target, told = load_model(PARITY / "config.yaml"), folder / "model", []
    keys = [f"key{position}" for position in range(4)]
    # By its own clock, the main process has nothing to keep at first; then the other has not.
    for position, dear in ((1, 1), (2, 0)):
        model.connector.projection.bias.data += position
        seconds = 1e6 if rank == dear else 0.0
        steps = [Step("merge_lora", {}, True, "", {}, (), (), seconds, {})] * position
        with stages_of(target, True, Silent()) as stages:
            stages.keep(keys, steps, model)
            told.append(len(stages.newest(keys)))
    with stages_of(target, True, Silent()) as stages:
        taken = stages.load(keys, stages.newest(keys), "cpu")
        told.append(tensors_digest(taken) == tensors_digest(model))
    for _ in range(2):  # one process does not see what the other one does, as on a disk of its own
        with stages_of(target if rank == 0 else folder / "elsewhere", True, Silent()) as stages:
            steps = stages.newest(keys)
            told.append(len(steps))
            if steps:
                try:
                    stages.load(keys, steps, "cpu")
                except AudioLMError as error:
                    told.append(str(error))
    return told
