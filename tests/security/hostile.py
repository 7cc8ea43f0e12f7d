"""The kinds of hostile files: each is made from a clean one, small, and says with what words it is refused.

``@hostile(reader, reason)`` registers one. Its function gets a :class:`Clean` and returns what the reader is
given. Whatever would be executed makes ``executed`` in the same folder.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.audio import load_audio
from audiolm_compress.data.loading import load_examples
from audiolm_compress.recipe import load_recipe
from audiolm_compress.report.compare.files import read_runs
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.outline import outline_model
from audiolm_compress.search.study import open_storage
from audiolm_compress.training.checkpoint import CHECKPOINT, load_state
from audiolm_compress.training.settings import TrainSettings

from .conftest import Clean

Make = Callable[[Clean], Any]
BILLION = 10**9
LAUGHS = "\n".join(
    [
        "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)),
    ]
)


@dataclass(frozen=True)
class Kind:
    """One kind: how to make it, what reads it, why it is refused (a regular expression)."""

    make: Make
    read: Callable[[Any], object]
    reason: str


KINDS: dict[str, Kind] = {}


def hostile(read: Callable[[Any], object], reason: str) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        KINDS[make.__name__] = Kind(make, read, reason)
        return make

    return register


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


def storage(file: Path) -> object:
    return open_storage(str(file))


# ---- pickles and archives of PyTorch


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


def touching(clean: Clean) -> str:
    return f"open({str(clean.place / 'executed')!r}, 'w')"


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


# ---- safetensors


def with_header(clean: Clean, header: bytes, length: int | None = None, data: bytes = bytes(64)) -> Path:
    folder = clean.folder()
    size = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + header + data)
    return folder


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def with_entries(clean: Clean, **entries: Any) -> Path:
    return with_header(clean, json.dumps(entries).encode())


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_header_of_many_terabytes(clean: Clean) -> Path:
    return with_header(clean, b"{}", length=2**62)


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_header_longer_than_the_file(clean: Clean) -> Path:
    return with_header(clean, b"{}", length=10_000)


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_that_overlap(clean: Clean) -> Path:
    return with_entries(clean, a=entry([16], 0, 64), b=entry([16], 0, 64))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_offsets_beyond_the_end(clean: Clean) -> Path:
    return with_entries(clean, a=entry([2**40], 0, 2**42))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_a_shape_that_overflows(clean: Clean) -> Path:
    return with_entries(clean, a=entry([2**40, 2**40], 0, 64))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_a_negative_shape(clean: Clean) -> Path:
    return with_entries(clean, a=entry([-16], 0, 64))


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_of_an_unknown_dtype(clean: Clean) -> Path:
    return with_entries(clean, a=entry([16], 0, 64, "F17"))


@hostile(load_model, r"model is damaged: SafetensorError|do not fit")
def safetensors_with_a_key_twice(clean: Clean) -> Path:
    one = json.dumps(entry([16], 0, 64))
    return with_header(clean, f'{{"a": {one}, "a": {one}}}'.encode())


@hostile(load_model, r"model is damaged: SafetensorError")
def safetensors_with_nan_in_its_metadata(clean: Clean) -> Path:
    return with_header(clean, b'{"__metadata__": {"a": NaN}}')


@hostile(load_model, r"model\.safetensors: .* has dtype I32, expected one like torch\.float32")
def safetensors_of_whole_numbers(clean: Clean) -> Path:
    folder = clean.folder()
    tensors = load_file(folder / "model.safetensors")
    name = "connector.ln_speech.weight"
    save_file(tensors | {name: tensors[name].int()}, folder / "model.safetensors")
    return folder


@hostile(load_model, r"LLM .*llm cannot be loaded: SafetensorError")
def safetensors_of_the_llm_truncated(clean: Clean) -> Path:
    config = clean.upstream()
    file = config.parent / "llm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return config


# ---- configs and tokenizers


@hostile(load_model, r"config\.json: sizes that cannot be meant:\n\s+llm\.hidden_size is 1000000000000")
def folder_with_a_width_of_a_billion(clean: Clean) -> Path:
    clean.edit((folder := clean.folder()) / "config.json", llm__hidden_size=10**12)
    return folder


@hostile(outline_model, r"config\.json: sizes that cannot be meant:\n\s+llm\.num_hidden_layers is 1000000000")
def plan_of_a_milliard_layers(clean: Clean) -> Path:
    clean.edit((folder := clean.folder()) / "config.json", llm__num_hidden_layers=BILLION)
    return folder


@hostile(load_model, r"do not fit its config")
def folder_with_a_large_vocabulary(clean: Clean) -> Path:
    clean.edit((folder := clean.folder()) / "config.json", llm__vocab_size=2**17)
    return folder


@hostile(load_model, r"speech_encoder\.encoder_layers is -1, expected 0 to")
def folder_with_fewer_than_no_layers(clean: Clean) -> Path:
    clean.edit((folder := clean.folder()) / "config.json", speech_encoder__encoder_layers=-1)
    return folder


@hostile(load_model, r"llm: its config describes \d+ parameters, but its weight files have")
def llm_wider_than_its_weights(clean: Clean) -> Path:
    config = clean.upstream()
    clean.edit(config.parent / "llm" / "config.json", intermediate_size=2**19)
    return config


@hostile(load_model, r"whisper/config\.json: sizes that cannot be meant:\n\s+d_model is 1000000000000")
def whisper_with_a_width_of_a_billion(clean: Clean) -> Path:
    config = clean.upstream()
    clean.edit(config.parent / "whisper" / "config.json", d_model=10**12)
    return config


@hostile(load_model, r"config\.yaml: sizes that cannot be meant:\n\s+model\.num_speech_query_token is")
def upstream_config_with_a_billion_queries(clean: Clean) -> Path:
    config = clean.upstream()
    text = config.read_text().replace("num_speech_query_token: 1", "num_speech_query_token: 1000000000000000")
    config.write_text(text)
    return config


@hostile(load_model, r"llm/config\.json: auto_map asks for classes in Python files of the checkpoint")
def llm_with_code_beside_it(clean: Clean) -> Path:
    config = clean.upstream()
    folder = config.parent / "llm"
    (folder / "modeling.py").write_text(touching(clean) + "\n")
    auto = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    clean.edit(folder / "config.json", auto_map=auto, trust_remote_code=True, model_type="unheard-of")
    return config


@hostile(load_model, r"model/config\.json: auto_map asks")
def folder_with_code_beside_it(clean: Clean) -> Path:
    folder = clean.folder()
    (folder / "modeling.py").write_text(touching(clean) + "\n")
    clean.edit(folder / "config.json", llm__auto_map={"AutoModelForCausalLM": "modeling.Model"})
    return folder


@hostile(load_model, r"tokenizer_config\.json: auto_map asks")
def tokenizer_with_code_beside_it(clean: Clean) -> Path:
    config = clean.upstream()
    folder = config.parent / "llm"
    (folder / "tokens.py").write_text(touching(clean) + "\n")
    clean.edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokens.Tokens", None]})
    return config


@hostile(load_model, r"tokenizer\.json: padding is 1000000000000, expected 0 to")
def tokenizer_that_pads_to_a_billion(clean: Clean) -> Path:
    folder = clean.folder()
    padding = {
        "strategy": {"Fixed": 10**12},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    clean.edit(folder / "tokenizer.json", padding=padding)
    return folder


@hostile(load_model, r"tokenizer\.json: a token's id is 1000000000000")
def tokenizer_with_an_id_of_a_billion(clean: Clean) -> Path:
    folder = clean.folder()
    tokens = [{"id": 10**12, "content": "<x>", "special": True}]
    clean.edit(folder / "tokenizer.json", added_tokens=tokens)
    return folder


@hostile(load_model, r"model is damaged")
def tokenizer_of_another_form(clean: Clean) -> Path:
    folder = clean.folder()
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    return folder


@hostile(load_model, r"dtypes|damaged: KeyError: 'load'")
def folder_that_casts_with_a_function(clean: Clean) -> Path:
    clean.edit((folder := clean.folder()) / "config.json", dtypes={"llm": "load"})
    return folder


@hostile(load_model, r"config\.json: no readable JSON: nested deeper than")
def config_nested_without_end(clean: Clean) -> Path:
    ((folder := clean.folder()) / "config.json").write_text('{"a":' * 100_000)
    return folder


@hostile(load_model, r"config\.json: no readable JSON: key 'format' is given twice")
def config_with_a_key_twice(clean: Clean) -> Path:
    file = (folder := clean.folder()) / "config.json"
    file.write_text('{"format": "other",' + file.read_text().lstrip()[1:])
    return folder


@hostile(load_model, r"config\.json: no readable JSON: .*BOM")
def config_with_a_byte_order_mark(clean: Clean) -> Path:
    file = (folder := clean.folder()) / "config.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    return folder


@hostile(load_model, r"config\.json: no readable JSON: .*utf-8")
def config_that_is_no_utf8(clean: Clean) -> Path:
    ((folder := clean.folder()) / "config.json").write_bytes(b'{"format": "\xff\xfe"}')
    return folder


@hostile(load_model, r"config\.json: no readable JSON: (Exceeds|.*digits)")
def config_with_a_number_of_a_million_digits(clean: Clean) -> Path:
    ((folder := clean.folder()) / "config.json").write_text('{"format": ' + "9" * 10**6 + "}")
    return folder


@hostile(load_model, r"config\.json: no readable JSON: has \d+ bytes, more than")
def config_of_a_gigabyte(clean: Clean) -> Path:
    with ((folder := clean.folder()) / "config.json").open("r+b") as file:
        file.truncate(2**30)  # a hole: no bytes on the disk
    return folder


@hostile(load_model, r"model: a symbolic link leads out of the folder: model\.safetensors -> ")
def weights_linked_from_elsewhere(clean: Clean) -> Path:
    folder = clean.folder()
    weights = folder / "model.safetensors"
    weights.rename(clean.place / "elsewhere")
    weights.symlink_to(clean.place / "elsewhere")
    return folder


@hostile(load_model, r"index\.json: shard '\.\./\.\./secret\.safetensors' leaves its folder")
def shards_from_elsewhere(clean: Clean) -> Path:
    config = clean.upstream()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (config.parent / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))
    return config


# ---- YAML and prompts


@hostile(load_model, r"config\.yaml cannot be read: could not determine a constructor for the tag")
def upstream_config_with_a_python_object(clean: Clean) -> Path:
    config = clean.upstream()
    config.write_text(f'model: !!python/object/apply:eval ["{touching(clean)}"]\n')
    return config


@hostile(load_model, r"config\.yaml cannot be read: its aliases stand for more than")
def upstream_config_of_a_billion_laughs(clean: Clean) -> Path:
    config = clean.upstream()
    config.write_text(config.read_text() + LAUGHS)
    return config


@hostile(load_model, r"test_prompt\.json: the prompts of task 'asr' must be texts")
def prompts_of_another_form(clean: Clean) -> Path:
    config = clean.upstream()
    (config.parent / "prompts" / "test_prompt.json").write_text('{"asr": 5}')
    return config


@hostile(load_model, r"/dev/zero cannot be read: is no regular file")
def device_as_prompts(clean: Clean) -> Path:
    config = clean.upstream()
    config.write_text(config.read_text().replace("prompts/train_prompt.json", "/dev/zero"))
    return config


def recipe(clean: Clean, text: str) -> Path:
    file = clean.place / "recipe.yaml"
    file.write_text(text)
    return file


@hostile(load_recipe, r"recipe\.yaml: not YAML: .*could not determine a constructor for the tag")
def recipe_with_a_python_object(clean: Clean) -> Path:
    return recipe(clean, f'passes: !!python/object/apply:eval ["{touching(clean)}"]\n')


@hostile(load_recipe, r"recipe\.yaml: not YAML: its aliases stand for more than")
def recipe_of_a_billion_laughs(clean: Clean) -> Path:
    return recipe(clean, LAUGHS)


@hostile(load_recipe, r"recipe\.yaml: not YAML: nested deeper than")
def recipe_nested_without_end(clean: Clean) -> Path:
    return recipe(clean, "[" * 100_000)


@hostile(load_recipe, r"recipe\.yaml: cannot read the recipe: has \d+ bytes")
def recipe_of_many_megabytes(clean: Clean) -> Path:
    return recipe(clean, "passes:\n" + "- {pass: merge_lora}\n" * 100_000)


@hostile(load_recipe, r"recipe\.yaml[\s\S]*name")
def recipe_named_into_another_folder(clean: Clean) -> Path:
    return recipe(clean, "name: ../../elsewhere\npasses: [{pass: merge_lora}]\n")


@hostile(load_recipe, r"recipe\.yaml[\s\S]*no such file: /dev/zero")
def recipe_with_a_device_as_annotation(clean: Clean) -> Path:
    return recipe(clean, "data: {calibration: /dev/zero}\npasses: [{pass: merge_lora}]\n")


# ---- annotations


def annotation(clean: Clean, text: str | bytes) -> Path:
    file = clean.place / "prefix" / "ann.json"
    file.parent.mkdir()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def naming(clean: Clean, path: str) -> Path:
    return annotation(clean, json.dumps({"annotation": [{"path": path, "text": "a", "task": "asr"}]}))


@hostile(read_annotation, r"ann\.json[\s\S]*path '\.\./secret\.wav' leaves its folder through '\.\.'")
def annotation_of_the_folder_above(clean: Clean) -> Path:
    return naming(clean, "../secret.wav")


@hostile(read_annotation, r"ann\.json[\s\S]*path '/etc/passwd' is absolute")
def annotation_of_an_absolute_path(clean: Clean) -> Path:
    return naming(clean, "/etc/passwd")


@hostile(load_examples, r"clip\.wav: a symbolic link leads out of the prefix: clip\.wav -> ")
def annotation_of_a_link(clean: Clean) -> Path:
    file = naming(clean, "clip.wav")
    (clean.place / "secret.wav").write_bytes(wav())
    (file.parent / "clip.wav").symlink_to(clean.place / "secret.wav")
    return file


@hostile(load_examples, r"clip\.wav: a symbolic link leads out of the prefix: inner/clip\.wav -> ")
def annotation_of_a_linked_folder(clean: Clean) -> Path:
    file = naming(clean, "inner/clip.wav")
    (clean.place / "secret").mkdir()
    (clean.place / "secret" / "clip.wav").write_bytes(wav())
    (file.parent / "inner").symlink_to(clean.place / "secret")
    return file


@hostile(load_examples, r"1 of 1 audio files cannot be used:[\s\S]*cannot be read \(File name too long\)")
def annotation_of_a_name_too_long(clean: Clean) -> Path:
    return naming(clean, "a" * 5000)


@hostile(read_annotation, r"ann\.json: not JSON \(key 'annotation' is given twice")
def annotation_with_two_lists(clean: Clean) -> Path:
    return annotation(clean, '{"annotation": [], "annotation": [{"path": "a.wav", "text": "a"}]}')


@hostile(read_annotation, r"ann\.json: not JSON \(NaN is no JSON number")
def annotation_with_nan(clean: Clean) -> Path:
    return annotation(clean, '{"annotation": [{"path": "a.wav", "text": "a", "gain": NaN}]}')


@hostile(read_annotation, r"ann\.json: not JSON \(number 1e999 is out of range")
def annotation_with_an_infinite_number(clean: Clean) -> Path:
    return annotation(clean, '{"annotation": [{"path": "a.wav", "text": "a", "gain": 1e999}]}')


@hostile(read_annotation, r"ann\.json: not JSON \(nested deeper than")
def annotation_nested_without_end(clean: Clean) -> Path:
    return annotation(clean, '{"annotation": ' + "[" * 200_000)


@hostile(read_annotation, r"ann\.json: not a JSON annotation file \(no UTF-8 text\)")
def annotation_that_is_no_utf8(clean: Clean) -> Path:
    return annotation(clean, b'{"annotation": [{"path": "\xff.wav", "text": "a"}]}')


@hostile(read_annotation, r"ann\.json[\s\S]*holds half of a surrogate pair")
def annotation_with_half_a_character(clean: Clean) -> Path:
    return annotation(clean, '{"annotation": [{"path": "a.wav", "text": "\\ud800"}]}')


# ---- audio


def wav(
    rate: int = 16_000, channels: int = 1, samples: bytes = bytes(3200), promised: int | None = None
) -> bytes:
    size = len(samples) if promised is None else promised
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, channels * 2 % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", min(len(body), 2**32 - 1)) + body


def audio(clean: Clean, data: bytes, name: str = "clip.wav") -> Path:
    (clean.place / name).write_bytes(data)
    return clean.place / name


@hostile(load_audio, r"clip\.wav: truncated: the header promises 4294967000 bytes")
def wav_that_promises_gigabytes(clean: Clean) -> Path:
    return audio(clean, wav(promised=4_294_967_000))


@hostile(load_audio, r"clip\.wav: (has a sampling rate of 0 Hz|cannot be decoded)")
def wav_without_a_rate(clean: Clean) -> Path:
    return audio(clean, wav(rate=0))


@hostile(load_audio, r"clip\.wav: has a sampling rate of 2147483647 Hz, expected 1000 to 768000")
def wav_padded_to_two_milliard_samples(clean: Clean) -> Path:
    return audio(clean, wav(rate=2**31 - 1))


@hostile(load_audio, r"clip\.wav: (has 1000 channels|cannot be decoded)")
def wav_of_a_thousand_channels(clean: Clean) -> Path:
    return audio(clean, wav(channels=1000, samples=bytes(20_000)))


@hostile(load_audio, r"clip\.wav: cannot be decoded")
def wav_of_65535_channels(clean: Clean) -> Path:
    return audio(clean, wav(channels=65_535, samples=bytes(131_070)))


@hostile(load_audio, r"clip\.au: (cannot be decoded|has 1000000 channels)")
def au_of_a_million_channels(clean: Clean) -> Path:
    return audio(clean, b".snd" + struct.pack(">5I", 24, 4000, 3, 16_000, 10**6) + bytes(4000), "clip.au")


@hostile(load_audio, r"clip\.wav: damaged: more than 1000 chunks")
def wav_of_endless_chunks(clean: Clean) -> Path:
    return audio(clean, b"RIFF" + struct.pack("<I", 2**24) + b"WAVE" + bytes(2**24))


@hostile(load_audio, r"clip\.wav: has 1099511627776 bytes, more than")
def wav_of_a_terabyte(clean: Clean) -> Path:
    file = audio(clean, wav())
    with file.open("r+b") as stream:
        stream.truncate(2**40)  # a hole: no bytes on the disk
    return file


def flac(clean: Clean, seconds: int, total: int) -> Path:
    """Silence at 1 kHz, of which four hours have some kB; ``total`` is what the header counts."""
    file = clean.place / "clip.flac"
    soundfile.write(file, np.zeros(seconds * 1000, np.int16), 1000, subtype="PCM_16")
    data = bytearray(file.read_bytes())
    kept = int.from_bytes(data[21:26], "big") >> 36 << 36
    data[21:26] = (kept | total).to_bytes(5, "big")
    file.write_bytes(data)
    return file


@hostile(load_audio, r"clip\.flac: promises 68719476735 frames, more than 4 hours")
def flac_that_promises_terabytes(clean: Clean) -> Path:
    return flac(clean, 1, 2**36 - 1)


@hostile(load_audio, r"clip\.flac: goes on for more than 4 hours")
def flac_of_endless_silence(clean: Clean) -> Path:
    return flac(clean, 4 * 3600 + 600, 0)


@hostile(load_audio, r"clip\.raw: has no header")
def audio_without_a_header(clean: Clean) -> Path:
    return audio(clean, bytes(range(256)) * 10, "clip.raw")


@hostile(load_audio, r"clip\.wav: not a file")
def device_as_audio(clean: Clean) -> Path:
    (clean.place / "clip.wav").symlink_to("/dev/zero")
    return clean.place / "clip.wav"


# ---- reports and studies


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
