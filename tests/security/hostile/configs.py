"""Configs and tokenizers of models."""

from __future__ import annotations

import json
from pathlib import Path

from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.outline import outline_model

from ..conftest import Clean
from .kinds import BILLION, hostile, touching


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
