"""Programs that the tests of the training loop run in processes of their own.

python programs.py killed FOLDER       trains again and again, killed by SIGKILL at random moments, until done
python programs.py launched FOLDER     trains once; to be started by accelerate
python programs.py calibrated FOLDER   quantises a small model; to be started by accelerate
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # which optimizers load late: here once, and not in every child
from safetensors.torch import save_file
from torch import Tensor, nn

from audiolm_compress.training import CHECKPOINT, Mean, TrainSettings, train
from audiolm_compress.training.shards import gather, processes, shard

PARITY = Path(__file__).parents[1] / "fixtures" / "upstream_parity" / "llama"
POINTS = torch.linspace(-1, 1, 40).reshape(40, 1)
KILLED = TrainSettings(
    steps=60, learning_rate=0.01, warmup=5, accumulation=2, save_every=1, validate_every=7, log_every=4
)
LAUNCHED = TrainSettings(steps=12, learning_rate=0.02, warmup=3, validate_every=5, log_every=2)


class Network(nn.Module):
    """With dropout, a frozen layer, one that every second batch uses and one of 16 bit that none does."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.frozen = nn.Linear(1, width).requires_grad_(False)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1))
        self.outer = nn.Linear(width, 1)
        self.sometimes = nn.Linear(1, 1)
        self.never = nn.Linear(2, 2, dtype=torch.bfloat16)

    def predict(self, points: Tensor) -> Tensor:
        """Not ``forward``: a loss may call what it likes."""
        values = self.outer(self.inner(torch.tanh(self.frozen(points))))
        return values + self.sometimes(points) if len(points) % 2 else values


def plan(epoch: int) -> list[list[int]]:
    """Seven batches, so that two processes get different numbers of them, of unequal sizes."""
    order = torch.randperm(40, generator=torch.Generator().manual_seed(epoch)).tolist()
    return [order[i : i + 1 + i // 7] for i in range(0, 40, 6)]


def loss(model: nn.Module, batch: list[int]) -> Mean:
    """Mean over the points, with random numbers of all three generators in it."""
    points = POINTS[batch] + 0.1 * torch.rand(len(batch), 1) + 0.01 * random.random()
    assert isinstance(model, Network)
    return Mean((model.predict(points) - POINTS[batch].square()).square().mean(), len(batch))


def validate(model: nn.Module) -> float:
    """Mean square error of all points, each computed by one of the processes."""
    assert isinstance(model, Network)
    own = [(model.predict(p) - p.square()).square().item() for p in shard(POINTS.split(1))]
    errors = gather(own)
    assert len(errors) == len(POINTS)
    return sum(errors) / len(errors)


def killed(folder: Path) -> None:
    """Kill a training until it has been hit eight times, also amid the writing of a checkpoint.

    Each time it may write a few checkpoints more before, so that it comes to an end.
    """
    chance = random.Random(5)
    unfinished = folder / f"{CHECKPOINT}.new"
    kills, amid_writing = 0, 0
    while True:
        child = os.fork()
        if child == 0:
            train(Network(600), plan, loss, KILLED, folder=folder, validate=validate)
            os._exit(0)
        if kills < 8 or not amid_writing:
            for _ in range(chance.randint(1, 4)):
                await_checkpoint(folder, child)
            time.sleep(chance.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
        amid_writing += unfinished.exists()
        unfinished.unlink(missing_ok=True)
    model = Network(600)
    result = train(model, plan, loss, KILLED, folder=folder, validate=validate)
    save_file(dict(model.named_parameters()), folder / "end.safetensors")
    best = [result.best, result.best_step]
    (folder / "end.json").write_text(
        json.dumps({"kills": kills, "amid_writing": amid_writing, "status": status, "best": best})
    )


def await_checkpoint(folder: Path, child: int) -> None:
    """Return when a new checkpoint is there, or the child has ended (and waits to be asked how)."""
    before = checkpoint_id(folder)
    while checkpoint_id(folder) == before:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def checkpoint_id(folder: Path) -> tuple[int, int]:
    """Changes with every checkpoint."""
    path = folder / CHECKPOINT
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else (0, 0)


def launched(folder: Path) -> None:
    """Train on all processes; every one writes what it ends with."""
    model = Network()
    index = processes().process_index
    if index:
        nn.init.zeros_(model.outer.weight)  # what other processes begin with must not matter
    result = train(model, plan, loss, LAUNCHED, folder=folder, validate=validate)
    save_file(dict(model.named_parameters()), folder / f"end{index}.safetensors")
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in result.curve]
    count = processes().num_processes
    (folder / f"end{index}.json").write_text(json.dumps({"processes": count, "curve": curve}))
    processes().destroy_process_group()


def quantised() -> tuple[nn.Module, dict[str, float]]:
    """A model after GPTQ, and its calibration loss before and after."""
    from audiolm_compress.data.loading import load_examples
    from audiolm_compress.passes import Gptq
    from audiolm_compress.passes.base import Context
    from audiolm_compress.passes.calibration_loss import calibration_loss
    from audiolm_compress.salmonn.upstream import load_upstream

    model = load_upstream(PARITY / "config.yaml")
    clips = load_examples(PARITY / "ann.json", prefix=PARITY / "audio").examples
    clips = [clips[0], clips[1], clips[0]]  # so that shares are unequal
    before = calibration_loss(model, clips, 1)
    passed = Gptq(parts=("speech_encoder", "llm"), bits=4, group_size=16, batch_size=1)
    report = passed.apply(model, Context(clips, torch.Generator().manual_seed(0), lambda: model))
    losses = {"before": before, "after": calibration_loss(model, clips, 1)}
    return model, losses | {"error": report.figures["error"]}


def calibrated(folder: Path) -> None:
    """Quantise on all processes; every one writes what it ends with."""
    model, figures = quantised()
    index = processes().process_index
    save_file(unpacked(model), folder / f"end{index}.safetensors")
    (folder / f"end{index}.json").write_text(json.dumps({"processes": processes().num_processes, **figures}))
    processes().destroy_process_group()


def unpacked(model: nn.Module) -> dict[str, Tensor]:
    """The weights of quantised layers as numbers."""
    from audiolm_compress.quantization.linear import QuantizedLinear

    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, QuantizedLinear))
    return {name: layer.dense().contiguous() for name, layer in layers}


PROGRAMS: dict[str, Callable[[Path], None]] = {
    "killed": killed,
    "launched": launched,
    "calibrated": calibrated,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
