"""Pickles and archives of PyTorch."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audiolm_compress.salmonn.load import load_model
from audiolm_compress.training.checkpoint import CHECKPOINT, load_state
from audiolm_compress.training.settings import TrainSettings

from ..conftest import Clean
from .kinds import BILLION, hostile, touching


def resume(folder: Path) -> object:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    return load_state(
        folder,
        model,
        optimizer,
        torch.amp.GradScaler("cpu", enabled=False),
        TrainSettings(steps=1, learning_rate=1e-3),
    )


class Runs:
    """Pickled as a call: to ``function`` with one argument."""

    def __init__(self, function: Callable[..., object], argument: object) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.call


def with_checkpoint(clean: Clean, data: bytes) -> Path:
    config = clean.upstream()
    (config.parent / "salmonn.pth").write_bytes(data)
    return config


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, data in {"data.pkl": pickled, "version": b"3\n", **records}.items():
            zipped.writestr(f"archive/{name.replace('__', '/')}", data)
    return file.getvalue()


def saved_bytes(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@hostile(load_model, r"salmonn\.pth cannot be read safely")
def pickle_that_calls_eval(clean: Clean) -> Path:
    return with_checkpoint(clean, archive(pickle.dumps(Runs(eval, touching(clean)), protocol=2)))


@hostile(load_model, r"salmonn\.pth cannot be read safely")
def pickle_that_calls_os_system(clean: Clean) -> Path:
    code = f"cos\nsystem\n(S'touch {clean.place / 'executed'}'\ntR."  # GLOBAL, STRING, TUPLE, REDUCE
    return with_checkpoint(clean, archive(b"\x80\x02" + code.encode()))


@hostile(load_model, r"salmonn\.pth cannot be read safely")
def pickle_with_inst(clean: Clean) -> Path:
    code = f"(S'{touching(clean)}'\ni__builtin__\neval\n.".replace("'open", '"open').replace(")'\n", ')"\n')
    return with_checkpoint(clean, archive(b"\x80\x02" + code.encode()))


@hostile(load_model, r"salmonn\.pth cannot be read safely")
def pickle_with_stack_global(clean: Clean) -> Path:
    return with_checkpoint(clean, pickle.dumps(Runs(exec, touching(clean)), protocol=4))


@hostile(load_model, r"salmonn\.pth cannot be read safely")
def pickle_with_build(clean: Clean) -> Path:
    # NEWOBJ of a class and BUILD, which calls __setstate__
    return with_checkpoint(clean, archive(b"\x80\x02csubprocess\nPopen\n)\x81}X\x01\x00\x00\x00aK\x01sb."))


@hostile(load_model, r"salmonn\.pth cannot be read safely")
def pickle_of_an_older_torch_that_executes(clean: Clean) -> Path:
    header = b"".join(
        pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    return with_checkpoint(clean, header + pickle.dumps(Runs(eval, touching(clean)), 2))


@hostile(load_model, r"beats\.pt cannot be read safely")
def beats_checkpoint_that_executes(clean: Clean) -> Path:
    config = clean.upstream()
    (config.parent / "beats.pt").write_bytes(archive(pickle.dumps(Runs(eval, touching(clean)), protocol=2)))
    return config


@hostile(load_model, r"pytorch_model\.bin cannot be read safely")
def bin_weights_that_execute(clean: Clean) -> Path:
    config = clean.upstream()
    (config.parent / "llm" / "model.safetensors").unlink()
    code = archive(pickle.dumps(Runs(eval, touching(clean)), protocol=2), pad=bytes(2**20))
    (config.parent / "llm" / "pytorch_model.bin").write_bytes(code)
    return config


@hostile(load_model, r"salmonn\.pth.*code/model\.py is program code")
def archive_with_code(clean: Clean) -> Path:
    return with_checkpoint(clean, archive(pickle.dumps({}, 2), **{"code/model.py": b"import os"}))


@hostile(load_model, r"salmonn\.pth.*is compressed")
def archive_that_unpacks_to_a_hundred_times_its_size(clean: Clean) -> Path:
    return with_checkpoint(
        clean, archive(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, data__0=bytes(50 * 2**20))
    )


@hostile(load_model, r"salmonn\.pth.*tensor of shape \[1000000, 1000000\] has 4 bytes")
def tensor_that_repeats_four_bytes(clean: Clean) -> Path:
    return with_checkpoint(clean, saved_bytes({"model": {"w": torch.zeros(1).expand(10**6, 10**6)}}))


@hostile(load_model, r"salmonn\.pth.*(meta|promises)")
def tensor_without_bytes(clean: Clean) -> Path:
    return with_checkpoint(clean, saved_bytes({"model": {"w": torch.empty(BILLION, device="meta")}}))


@hostile(load_model, r"salmonn\.pth cannot be read safely")
def truncated_checkpoint(clean: Clean) -> Path:
    config = clean.upstream()
    data = (config.parent / "salmonn.pth").read_bytes()
    (config.parent / "salmonn.pth").write_bytes(data[: len(data) // 2])
    return config


@hostile(load_model, r"is no regular file")
def device_as_checkpoint(clean: Clean) -> Path:
    config = clean.upstream()
    config.write_text(config.read_text().replace("salmonn.pth", "/dev/zero"))
    return config


@hostile(load_model, r"beats\.pt: cfg: sizes.*\n.*encoder_embed_dim is 1000000000")
def beats_of_a_milliard_channels(clean: Clean) -> Path:
    config = clean.upstream()
    content = torch.load(config.parent / "beats.pt", weights_only=True)
    content["cfg"]["encoder_embed_dim"] = BILLION
    torch.save(content, config.parent / "beats.pt")
    return config


@hostile(resume, rf"{CHECKPOINT} cannot be read")
def training_checkpoint_that_executes(clean: Clean) -> Path:
    (clean.place / CHECKPOINT).write_bytes(archive(pickle.dumps(Runs(eval, touching(clean)), protocol=2)))
    return clean.place
