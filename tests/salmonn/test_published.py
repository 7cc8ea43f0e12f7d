"""Checkpoints in the published layouts: file names, tensor names and dtypes of the real ones, small sizes.

The names are those that ``benchmarks/published_shapes.py`` writes down, not those of the classes under test.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiolm_compress.errors import BaselineError
from audiolm_compress.planner import plan
from audiolm_compress.salmonn import weight_files
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.salmonn.upstream import load_llm

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
SMALL_LLM = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SMALL_WHISPER = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "vocab_size": 128,
}
SMALL_BEATS = {
    "embed_dim": 32,
    "encoder_layers": 2,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "predictor_class": 10,
}


@dataclass(frozen=True)
class Published:
    """How a checkpoint was published.

    Attributes:
        llm: key of ``published_shapes.LLMS``.
        whisper: key of ``published_shapes.WHISPERS``.
        files: arguments of ``published.Files`` of the LLM.
        speech_dtype: of Whisper's file.
        beats: what its ``cfg`` has otherwise.
    """

    llm: str
    whisper: str
    files: dict[str, Any]
    speech_dtype: torch.dtype
    beats: dict[str, Any] = field(default_factory=dict)


PUBLISHED = {
    "gemma2_2b": Published(
        "gemma-2-2b",
        "turbo",
        {"dtype": torch.bfloat16, "shard_bytes": 60_000},
        torch.float16,
        {"finetuned_model": False},
    ),
    "llama3_2_3b": Published(
        "llama-3.2-3b", "large-v2", {"dtype": torch.bfloat16, "shard_bytes": 60_000}, torch.float32
    ),
    "salmonn_7b": Published(
        "vicuna-7b-v1.5", "large-v2", {"kind": "bin", "shard_bytes": 60_000}, torch.float32
    ),
    "salmonn_13b": Published(
        "vicuna-13b-v1.1", "large-v2", {"kind": "bin", "shard_bytes": 60_000}, torch.float32
    ),
}


@pytest.fixture(scope="module")
def writers() -> Iterator[tuple[ModuleType, ModuleType]]:
    """``published.py`` and ``published_shapes.py`` of benchmarks/, as they are when a script imports them."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("published"), importlib.import_module("published_shapes")
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in {"published", "published_shapes", "full_size_models"} - before:
        sys.modules.pop(name, None)


class Writer:
    """Writes small checkpoints in the layout of a file of ``checkpoints/``, and knows what it wrote."""

    def __init__(self, folder: Path, parity: Path, modules: tuple[ModuleType, ModuleType]) -> None:
        self.folder, self.parity = folder, parity
        self.published, self.shapes = modules

    def __call__(self, name: str, **files: Any) -> Path:
        """The YAML, with everything it names beside it."""
        made = PUBLISHED[name]
        config = Path(shutil.copy(CHECKPOINTS / f"{name}.yaml", self.folder))
        vicuna = "vicuna" in made.llm
        family = "gemma" if made.llm.startswith("gemma") else "llama"
        vocabulary = 300 if vicuna else {"gemma": 420, "llama": 330}[family]
        llm = self.shapes.LLMS[made.llm] | SMALL_LLM | {"vocab_size": vocabulary}
        if vicuna:
            llm |= {"num_key_value_heads": 4}
        whisper = self.shapes.WHISPERS[made.whisper] | SMALL_WHISPER
        beats = self.shapes.BEATS | SMALL_BEATS | made.beats
        self.published.write_set(
            config,
            llm,
            whisper,
            beats,
            self.published.Files(**(made.files | files)),
            self.published.Files(dtype=made.speech_dtype),
            hidden=128,
        )
        place = self.llm_folder(config)
        if vicuna:
            write_sentencepiece(place, vocabulary)
        else:
            for file in (self.parity / family / "llm").glob("*token*"):
                shutil.copy(file, place)
        return config

    def llm_folder(self, config: Path) -> Path:
        section = yaml.safe_load(config.read_text())["model"]
        return config.parent / str(section.get("gemma_path") or section["llama_path"])


def write_sentencepiece(folder: Path, size: int) -> None:
    """What Vicuna has for a tokenizer: a SentencePiece model of the BPE kind, without a tokenizer.json."""
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["USER: write down the speech", "ASSISTANT: it rains on a metal roof"]),
            model_writer=file,
            model_type="bpe",
            vocab_size=size,
            byte_fallback=True,
            minloglevel=2,
        )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | special | {"legacy": False}))


@pytest.fixture
def write(tmp_path: Path, parity: Path, writers: tuple[ModuleType, ModuleType]) -> Writer:
    return Writer(tmp_path, parity, writers)


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors in the weight files of a folder."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    for file in sorted(folder.glob("*.bin")):
        tensors |= torch.load(file, weights_only=True)
    return tensors


def layout(model: torch.nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def configs_alone(name: str, folder: Path, shapes: ModuleType) -> Path:
    """The YAML, with the configs at full size beside it that `plan` reads."""
    made = PUBLISHED[name]
    config = Path(shutil.copy(CHECKPOINTS / f"{name}.yaml", folder))
    section = yaml.safe_load(config.read_text())["model"]
    for source, content in (
        (section.get("gemma_path") or section["llama_path"], shapes.LLMS[made.llm]),
        (section["whisper_path"], shapes.WHISPERS[made.whisper]),
    ):
        (folder / source).mkdir(parents=True)
        (folder / source / "config.json").write_text(json.dumps(content))
    (folder / "prompts").mkdir()
    (folder / section["test_prompt_path"]).write_text('{"asr": "<Speech><SpeechHere></Speech> Write."}')
    return config


@pytest.mark.campaign
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_documented_sizes_are_those_that_plan_finds(
    name: str, tmp_path: Path, writers: tuple[ModuleType, ModuleType]
) -> None:
    config = configs_alone(name, tmp_path, writers[1])
    recipe = "gemma2_4bit" if name == "gemma2_2b" else "llama3_4bit"
    stages = plan(ROOT / "recipes" / f"{recipe}.yaml", baseline=str(config)).stages
    before, after = (stage.bytes / 2**30 for stage in (stages[0], stages[-1]))
    rows = [row.split(" | ") for row in (ROOT / "docs" / "checkpoints.md").read_text().splitlines()]
    [documented] = [row for row in rows if row[0] == "| weights"]
    assert documented[1 + list(PUBLISHED).index(name)].strip(" |") == f"{before:.2f} -> {after:.2f}"


def test_every_checkpoint_has_a_layout() -> None:
    assert {file.stem for file in CHECKPOINTS.glob("*.yaml")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_is_that_of_the_files(name: str, write: Writer, clips: list[Tensor]) -> None:
    config = write(name)
    model = load_model(config)
    section = yaml.safe_load(config.read_text())["model"]
    llm = write.llm_folder(config)
    own = dict(model.causal_lm.named_parameters(remove_duplicate=False))
    own = {key.replace(".base_layer", ""): value for key, value in own.items()}
    files, trained = stored(llm), torch.load(config.parent / section["ckpt"], weights_only=True)["model"]
    family = "gemma" if "gemma_path" in section else "llama"
    head = trained.get(f"{family}_model.base_model.model.lm_head.weight")
    tied = head is not None
    assert ("lm_head.weight" in files) is not tied
    assert (own["lm_head.weight"] is own["model.embed_tokens.weight"]) is tied
    for key, tensor in files.items():
        if key.endswith("rotary_emb.inv_freq"):
            continue  # a computed buffer in files of old releases
        expected = head.to(tensor.dtype)[:-1] if tied and "embed_tokens" in key else tensor
        assert own[key].dtype == tensor.dtype
        assert torch.equal(own[key][: len(expected)], expected), key
    speech = model.speech_encoder.state_dict()
    heard = stored(config.parent / section["whisper_path"])
    for key, tensor in speech.items():
        assert torch.equal(tensor, heard[f"model.encoder.{key}"].float()), key
    assert model.speech_encoder.conv1.weight.shape[1] == (128 if "turbo" in section["whisper_path"] else 80)
    assert torch.equal(model.connector.projection.weight, trained[f"speech_{family}_proj.weight"])
    assert len(model.generate(clips[1:], max_new_tokens=2, num_beams=1, min_length=2)) == 1
    assert layout(outline_model(config).model) == layout(model)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("llm", ["gemma-2-2b", "llama-3.2-3b", "vicuna-7b-v1.5"])
@pytest.mark.parametrize("shard_bytes", [None, 30_000])
def test_all_forms_of_files(
    llm: str, dtype: torch.dtype, kind: str, shard_bytes: int | None, write: Writer
) -> None:
    config = write.shapes.LLMS[llm] | SMALL_LLM | {"vocab_size": 100}
    write.published.write_llm(write.folder, config, write.published.Files(kind, dtype, shard_bytes))
    assert (len(list(write.folder.glob("*-of-*"))) > 2) is (shard_bytes is not None)
    loaded = load_llm(str(write.folder), 101).state_dict()
    for key, tensor in stored(write.folder).items():
        if not key.endswith("rotary_emb.inv_freq"):
            assert loaded[key].dtype == dtype
            assert torch.equal(loaded[key][: len(tensor)], tensor), key
    tied = llm != "vicuna-7b-v1.5"
    assert torch.equal(loaded["lm_head.weight"], loaded["model.embed_tokens.weight"]) is tied


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_read_in_pieces_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    written = {f"t{index}": torch.full((10,), float(index)) for index in range(7)} | {"empty": torch.empty(0)}
    file = tmp_path / f"weights.{kind}"
    save_file(written, file) if kind == "safetensors" else torch.save(written, file)
    monkeypatch.setattr(weight_files, "_PIECE", 100)  # bytes: three tensors a piece
    pieces = list(weight_files.read_pieces(file, written))
    assert len(pieces) == 3
    read = {name: tensor for piece in pieces for name, tensor in piece.items()}
    assert read.keys() == written.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in written.items())


def test_quantised_weights_are_refused(write: Writer) -> None:
    config = (
        write.shapes.LLMS["vicuna-7b-v1.5"] | SMALL_LLM | {"quantization_config": {"quant_method": "gptq"}}
    )
    write.published.write_llm(write.folder, config, write.published.Files())
    with pytest.raises(BaselineError, match="quantised already"):
        load_llm(str(write.folder), 0)


def test_tied_tensors_that_differ_are_refused(write: Writer) -> None:
    config = write.shapes.LLMS["gemma-2-2b"] | SMALL_LLM | {"vocab_size": 100}
    write.published.write_llm(write.folder, config, write.published.Files())
    file = write.folder / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding.clone()}, file, {"format": "pt"})
    llm = load_llm(str(write.folder), 0)
    assert llm.get_output_embeddings().weight is llm.get_input_embeddings().weight
    save_file(tensors | {"lm_head.weight": embedding + 1}, file, {"format": "pt"})
    with pytest.raises(BaselineError, match="one tensor by the config, but differ"):
        load_llm(str(write.folder), 0)


def test_a_config_that_is_not_there_is_named(tmp_path: Path, writers: tuple[ModuleType, ModuleType]) -> None:
    config = configs_alone("salmonn_7b", tmp_path, writers[1])
    (tmp_path / "lmsys" / "vicuna-7b-v1.5" / "config.json").unlink()
    with pytest.raises(BaselineError, match=r"config of LLM .*vicuna-7b-v1\.5"):
        outline_model(config)


@pytest.mark.parametrize("name", ["llama3_2_3b", "salmonn_13b"])
def test_a_lost_shard_is_named(name: str, write: Writer) -> None:
    config = write(name)
    lost = sorted(write.llm_folder(config).glob("*-of-*"))[1]
    lost.unlink()
    with pytest.raises(BaselineError, match=lost.name):
        load_model(config)


MEASURED = """
import gc, json, sys, torch
from audiolm_compress.measurement.memory import _peak_resident, _reset_peak_resident, _resident
from audiolm_compress.salmonn import weight_files
from audiolm_compress.salmonn.upstream import load_llm

weight_files._PIECE = 2**23  # for a small model small pieces
kept = []
load_llm(sys.argv[1], 0)  # what libraries set up at first use
for folder, dtype in (("safetensors", None), ("bin", torch.bfloat16)):
    gc.collect()
    assert _reset_peak_resident()
    before = _resident()
    llm = load_llm(f"{sys.argv[2]}/{folder}", 0, dtype=dtype)
    size = sum(parameter.nbytes for parameter in llm.parameters())
    print(json.dumps([size, _peak_resident() - before, _resident() - before]))
    kept.append(llm)  # what is freed is not always given back, and would hide what the next one takes
"""


def test_loading_takes_the_models_own_memory(write: Writer) -> None:
    """In a fresh process; mapped pages of the files count. Twice the size is what a whole map would take."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "vocab_size": 1000}
    config = write.shapes.LLMS["vicuna-7b-v1.5"] | SMALL_LLM
    write.published.write_llm(write.folder / "small", config | {"vocab_size": 100}, write.published.Files())
    for kind in ("safetensors", "bin"):
        files = write.published.Files(kind, torch.float16, 64 * 2**20)
        write.published.write_llm(write.folder / kind, config | sizes, files)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(write.folder / "small"), str(write.folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    loads = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(loads) == 2
    for size, peak, held in loads:
        assert size > 90 * 2**20
        assert held > 0.9 * size, "the weights are in memory of their own"
        assert peak < 1.1 * size + 48 * 2**20
