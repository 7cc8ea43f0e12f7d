"""A model in upstream SALMONN's layout: what bytedance/SALMONN and its hackathon derivatives load.

    config.yaml     sections model and generate
    salmonn.pth     connector and LoRA under upstream's names
    beats.pt        {"cfg", "model"}
    whisper/        encoder and feature extractor; no decoder, which upstream does not use
    llm/            causal LM and tokenizer of transformers
    prompts/        instructions of training and of evaluation

Upstream computes Whisper, BEATs and connector in float32, so those are float32; its code loads the LLM as
float16, whatever type the folder has. Packed layers become plain weights. A model that upstream's code would
run as another function is refused: clips heard at their own length, heads pruned from an encoder, a
Q-Former with other heads than 64 wide ones.

BEATs with dropped layers needs a word. Deep norm (arXiv:2203.00555) computes

    x <- LayerNorm(a x + f(x)),   a = (2 N)^(1/4)

and upstream's a follows from the number of layers N in the file. A LayerNorm does not see the scale of its
input, so the a of the original depth is kept by f <- f a'/a, with a' that of the layers there are: a factor
on the last linear layer of attention and feed-forward, exact up to the epsilon of the LayerNorm.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.dense import dense_state, main_type
from audiolm_compress.export.llm import write_llm
from audiolm_compress.salmonn.beats import Beats
from audiolm_compress.salmonn.connector import ConnectorConfig
from audiolm_compress.salmonn.lora import describe_lora
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import PAD_TOKEN, load_upstream
from audiolm_compress.salmonn.upstream_config import HEAD_WIDTH
from audiolm_compress.salmonn.upstream_names import upstream_name
from audiolm_compress.salmonn.widths import describe_widths

CONFIG = "config.yaml"
_FRAME = 0.02  # seconds
_BERT_BASE = {"hidden": 768, "layers": 2, "intermediate": 3072}  # what upstream's Q-Former is made with


def write_upstream(model: Salmonn, folder: Path, dtype: torch.dtype | None = None) -> tuple[str, ...]:
    """Write the layout, load it as upstream's is loaded, compare every tensor, and return notes.

    Args:
        model: LoRA merged or not.
        folder: exists.
        dtype: of the LLM; by default its own.

    Raises:
        AudioLMError: upstream's code would run another function, or something is not read back as written.
    """
    _check_possible(model)
    family = "gemma" if model.causal_lm.config.model_type.startswith("gemma") else "llama"
    expected: dict[str, Tensor] = {}
    llm, notes = _write_llm(model, folder / "llm", dtype)
    expected |= {f"llm.{name}": tensor for name, tensor in llm.items()}
    for name, write in (("speech_encoder", _write_whisper), ("audio_encoder", _write_beats)):
        if getattr(model, name) is not None:
            tensors, done = write(model, folder)
            expected |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
            notes += [f"{name}, {note}" for note in done]
    connector = dense_state(model.connector, torch.float32)
    notes += [f"connector, {note}" for note in connector.notes]
    trained = {f"connector.{name}": tensor for name, tensor in connector.tensors.items()}
    trained |= {n: p.detach().cpu() for n, p in model.named_parameters() if ".lora_" in n}
    expected |= trained
    config = describe(model, family)
    content = {
        "model": {upstream_name(name, family): tensor.clone() for name, tensor in trained.items()},
        "optimizer": None,
        "config": config,
        "scaler": None,
        "epoch": 0,
    }
    torch.save(content, folder / config["model"]["ckpt"])
    _write_prompts(model, folder, config["model"])
    (folder / CONFIG).write_text(
        yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    _compare(load_upstream(folder / CONFIG), expected, folder)
    return (*notes, *_warnings(model, folder))


def describe(model: Salmonn, family: str) -> dict[str, Any]:
    """The YAML: upstream's keys, paths relative to the folder."""
    connector, lora = model.connector.config, describe_lora(model.llm)
    section: dict[str, Any] = {
        f"{family}_path": "llm",
        "whisper_path": "whisper",
        "beats_path": "" if model.audio_encoder is None else "beats.pt",
        "ckpt": "salmonn.pth",
        "use_speech_Qformer": True,
        "num_speech_query_token": connector.queries,
        "window_level_Qformer": connector.window > 0,
        "second_per_window": round(connector.window * _FRAME, 2),
        "second_stride": round(connector.stride * _FRAME, 2),
        "lora": lora is not None,
        "multi_prompt": True,
        "prompt_path": "prompts/train_prompt.json",
        "test_prompt_path": "prompts/test_prompt.json",
        # Templates of single tasks stand in the prompts, as upstream has one for all.
        "prompt_template": "{}" if model.prompts.templates else model.prompts.template,
        "max_txt_len": model.max_text_tokens,
        "end_sym": model.end_symbol,
    }
    if lora is not None:
        section |= {"lora_rank": lora["r"]} | {key: lora[key] for key in ("lora_alpha", "lora_dropout")}
    return {"model": section, "generate": model.decode["default"].model_dump()}


def _check_possible(model: Salmonn) -> None:
    connector = model.connector.config
    if model.bucket_seconds is not None or model.audio_positions is not None:
        raise AudioLMError(
            "the model hears clips at their own length (unpad_audio), and upstream's code pads all to 30 s; "
            "leave unpad_audio out of the recipe"
        )
    if describe_widths(model.speech_encoder):
        raise AudioLMError(
            "the speech encoder's attention heads were pruned, which a Whisper config cannot say; prune its "
            "FFN alone (prune_width)"
        )
    if model.audio_encoder is not None and model.audio_encoder.config.encoder_head_dim is not None:
        raise AudioLMError(
            "the audio encoder's attention heads were pruned, and in upstream's BEATs their number gives "
            "their width; prune its FFN alone (prune_width)"
        )
    if connector.heads != max(1, connector.hidden // HEAD_WIDTH):
        raise AudioLMError(
            f"the Q-Former has {connector.heads} heads on a width of {connector.hidden}; the layout does not "
            f"store their number and takes them to be {HEAD_WIDTH} wide"
        )
    lora = describe_lora(model.llm)
    if lora is not None and lora["target_modules"] != ["q_proj", "v_proj"]:
        raise AudioLMError(
            f"LoRA is on {', '.join(lora['target_modules'])}, and upstream's code knows q_proj and v_proj "
            f"alone; merge it first (merge_lora)"
        )


def _write_llm(
    model: Salmonn, folder: Path, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], list[str]]:
    """The LLM without its LoRA."""
    folder.mkdir()
    dtype = dtype or main_type(model.causal_lm)
    dense = dense_state(model.causal_lm, dtype)
    tensors = {
        name.replace(".base_layer.", "."): one for name, one in dense.tensors.items() if ".lora_" not in name
    }
    write_llm(model, folder, tensors, dtype)
    adapted = {f"base_model.model.{name}": one for name, one in dense.tensors.items() if ".lora_" not in name}
    read = dense.tensors if describe_lora(model.llm) is None else adapted
    return read, [f"weights of the LLM are {str(dtype).removeprefix('torch.')}", *dense.notes]


def _write_whisper(model: Salmonn, root: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    folder = root / "whisper"
    folder.mkdir()
    dense = dense_state(model.speech_encoder, torch.float32)
    tensors = {f"encoder.{name}": tensor for name, tensor in dense.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**model.speech_encoder.config.to_diff_dict(), "architectures": ["WhisperModel"]}
    config |= {"decoder_layers": 0, "dtype": "float32", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    model.feature_extractor.save_pretrained(folder)
    return dense.tensors, dense.notes


def _write_beats(model: Salmonn, root: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    beats = model.audio_encoder
    assert beats is not None
    dense = dense_state(beats, torch.float32)
    config, notes = beats.config, list(dense.notes)
    tensors = dict(dense.tensors)
    if config.deep_norm and not config.layer_norm_first and config.trained_layers != config.encoder_layers:
        factor = (config.encoder_layers / config.trained_layers) ** 0.25
        for name in tensors:
            if ".self_attn.out_proj." in name or ".fc2." in name:
                tensors[name] = tensors[name] * factor
        notes.append(
            f"deep norm of {config.trained_layers} layers folded into the {config.encoder_layers} there are"
        )
    written = replace(config, deep_norm_layers=None)
    with torch.device("meta"):
        empty = Beats(written)
    empty.load_state_dict(tensors, assign=True)
    cfg = {k: v for k, v in written.to_dict().items() if k not in ("deep_norm_layers", "encoder_head_dim")}
    state = {name: tensor.clone() for name, tensor in empty.upstream_state_dict().items()}
    torch.save({"cfg": cfg, "model": state}, root / "beats.pt")
    return tensors, tuple(notes)


def _write_prompts(model: Salmonn, folder: Path, section: dict[str, Any]) -> None:
    prompts = model.prompts

    def whole(task: str, text: str) -> str:
        return (
            prompts.templates.get(task, prompts.template).replace("{}", text) if prompts.templates else text
        )

    train = {task: [whole(task, text) for text in many] for task, many in prompts.train.items()}
    test = {task: whole(task, text) for task, text in prompts.test.items()}
    (folder / "prompts").mkdir()
    for key, content in (("prompt_path", train), ("test_prompt_path", test)):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / section[key]).write_text(text, encoding="utf-8")


def _compare(again: Salmonn, expected: dict[str, Tensor], folder: Path) -> None:
    """Every tensor that was written must be the one that is loaded."""
    found = again.state_dict()
    for name, tensor in expected.items():
        rows = found[name][: len(tensor)] if tensor.ndim else found[name]  # loading may add [PAD]'s row
        if not torch.equal(rows, tensor):
            raise AudioLMError(f"{folder}: {name} is not read back as it was written")


def _warnings(model: Salmonn, folder: Path) -> list[str]:
    """What a user of upstream's code must know."""
    notes = ["upstream's code loads the LLM as float16, whatever type it is written in"]
    connector, llm = model.connector.config, model.causal_lm.config
    sizes = _sizes(connector)
    if sizes != _BERT_BASE:
        bert = {
            "hidden_size": connector.hidden,
            "num_attention_heads": connector.heads,
            "intermediate_size": connector.intermediate,
            "num_hidden_layers": connector.layers,
        }
        (folder / "qformer_config.json").write_text(json.dumps(bert, indent=1) + "\n", encoding="utf-8")
        notes.append(
            f"the Q-Former has {sizes}, upstream's code makes one of {_BERT_BASE} from bert-base-uncased: "
            f"give it a BertConfig of qformer_config.json instead"
        )
    other = {task: settings for task, settings in model.decode.items() if task != "default"}
    for task, settings in other.items():
        changed = {
            key: value
            for key, value in settings.model_dump().items()
            if value != getattr(model.decode["default"], key)
        }
        notes.append(f"task {task} has decode settings of its own, upstream has one section: set {changed}")
    if model.prompts.templates:
        notes.append("the templates of single tasks stand in the prompts; prompt_template is empty")
    if model.tokenizer.pad_token != PAD_TOKEN:
        notes.append(
            f"the pad token is {model.tokenizer.pad_token}; loading adds {PAD_TOKEN}, so the logits get "
            f"one class more"
        )
    kinds = getattr(llm, "layer_types", None) or []
    if kinds and kinds != [("sliding_attention", "full_attention")[i % 2] for i in range(len(kinds))]:
        notes.append(
            "the LLM's sliding and full attention do not alternate; releases of transformers that know no "
            "layer_types let them"
        )
    if model.prompt_cache:
        notes.append("the cache of the prompt's beginning is not kept: it changes speed alone")
    return notes


def _sizes(connector: ConnectorConfig) -> dict[str, int]:
    return {name: getattr(connector, name) for name in _BERT_BASE}
