"""Names and shapes of the tensors in published checkpoints, and of those that upstream's code saves.

They are written down here from those files, not taken from the classes that read them: what ``published.py``
writes by them tests these classes.

Example:
    >>> list(llm_shapes(LLMS["vicuna-7b-v1.5"]))[-1]
    'lm_head.weight'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from full_size_models import LLMS as RIVALS
from full_size_models import WHISPER

Shapes = dict[str, tuple[int, ...]]

_VICUNA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "dtype": "float16",
    "vocab_size": 32_000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
# lmsys/vicuna-7b-v1.5 and vicuna-13b-v1.1 beside the LLMs of full_size.py.
LLMS: dict[str, dict[str, Any]] = {
    **RIVALS,
    "vicuna-7b-v1.5": _VICUNA
    | {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "vicuna-13b-v1.1": _VICUNA
    | {
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-06,
    },
}
# The keys of the ``cfg`` in BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt that are not BEATs' defaults.
BEATS: dict[str, Any] = {
    "input_patch_size": 16,
    "embed_dim": 512,
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "deep_norm": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
    "encoder_layerdrop": 0.05,
    "finetuned_model": True,
    "predictor_class": 527,
}
# openai/whisper-large-v3-turbo and whisper-large-v2
WHISPERS: dict[str, dict[str, Any]] = {
    "turbo": WHISPER | {"decoder_layers": 4, "decoder_ffn_dim": 5120, "vocab_size": 51_866},
    "large-v2": WHISPER
    | {"num_mel_bins": 80, "decoder_layers": 32, "decoder_ffn_dim": 5120, "vocab_size": 51_865},
}
_TEXT_POSITIONS, _MEL_POSITIONS = 448, 1500  # of Whisper
_BERT_POSITIONS = 512


def llm_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes in the published Gemma-2 and Llama checkpoints; a tied head is not stored."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or hidden // heads
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config["model_type"] == "gemma2":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        stem = f"model.layers.{layer}."
        shapes |= {f"{stem}{norm}.weight": (hidden,) for norm in norms}
        shapes |= {
            f"{stem}mlp.down_proj.weight": (hidden, inner),
            f"{stem}mlp.gate_proj.weight": (inner, hidden),
            f"{stem}mlp.up_proj.weight": (inner, hidden),
            f"{stem}self_attn.k_proj.weight": (groups * head, hidden),
            f"{stem}self_attn.o_proj.weight": (hidden, heads * head),
            f"{stem}self_attn.q_proj.weight": (heads * head, hidden),
            f"{stem}self_attn.v_proj.weight": (groups * head, hidden),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not tied(config):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def whisper_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes in the published Whisper checkpoints; ``proj_out`` is tied and not stored."""
    width = config["d_model"]
    shapes: Shapes = {
        "model.decoder.embed_positions.weight": (_TEXT_POSITIONS, width),
        "model.decoder.embed_tokens.weight": (config["vocab_size"], width),
        "model.encoder.conv1.bias": (width,),
        "model.encoder.conv1.weight": (width, config["num_mel_bins"], 3),
        "model.encoder.conv2.bias": (width,),
        "model.encoder.conv2.weight": (width, width, 3),
        "model.encoder.embed_positions.weight": (_MEL_POSITIONS, width),
    }
    for side, blocks in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        inner = config[f"{side}_ffn_dim"]
        for layer in range(config[f"{side}_layers"]):
            stem = f"model.{side}.layers.{layer}."
            for block in blocks:
                shapes |= {
                    f"{stem}{block}.{name}_proj.weight": (width, width) for name in ("k", "out", "q", "v")
                }
                shapes |= {f"{stem}{block}.{name}_proj.bias": (width,) for name in ("out", "q", "v")}
            shapes |= {f"{stem}fc1.weight": (inner, width), f"{stem}fc1.bias": (inner,)}
            shapes |= {f"{stem}fc2.weight": (width, inner), f"{stem}fc2.bias": (width,)}
            for norm in (*(f"{block}_layer_norm" for block in blocks), "final_layer_norm"):
                shapes |= {f"{stem}{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
        shapes |= {f"model.{side}.layer_norm.{leaf}": (width,) for leaf in ("weight", "bias")}
    return shapes


def beats_shapes(cfg: Mapping[str, Any]) -> Shapes:
    """Names and shapes in the published BEATs checkpoints, of which fine-tuned ones have a predictor."""
    width, patch = cfg["encoder_embed_dim"], cfg["embed_dim"]
    inner, heads = cfg["encoder_ffn_embed_dim"], cfg["encoder_attention_heads"]
    shapes: Shapes = {
        "patch_embedding.weight": (patch, 1, cfg["input_patch_size"], cfg["input_patch_size"]),
        "layer_norm.weight": (patch,),
        "layer_norm.bias": (patch,),
        "encoder.pos_conv.0.bias": (width,),
        "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (width, width // 16, 128),
        "encoder.layer_norm.weight": (width,),
        "encoder.layer_norm.bias": (width,),
    }
    if patch != width:
        shapes |= {"post_extract_proj.weight": (width, patch), "post_extract_proj.bias": (width,)}
    for layer in range(cfg["encoder_layers"]):
        stem = f"encoder.layers.{layer}."
        for name in ("q", "k", "v", "out"):
            shapes[f"{stem}self_attn.{name}_proj.weight"] = (width, width)
            shapes[f"{stem}self_attn.{name}_proj.bias"] = (width,)
        shapes |= {
            f"{stem}self_attn.grep_linear.weight": (8, width // heads),
            f"{stem}self_attn.grep_linear.bias": (8,),
            f"{stem}self_attn.grep_a": (1, heads, 1, 1),
            f"{stem}self_attn.relative_attention_bias.weight": (cfg["num_buckets"], heads),
            f"{stem}fc1.weight": (inner, width),
            f"{stem}fc1.bias": (inner,),
            f"{stem}fc2.weight": (width, inner),
            f"{stem}fc2.bias": (width,),
        }
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{stem}{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
    if cfg["finetuned_model"]:
        shapes |= {"predictor.weight": (cfg["predictor_class"], width)}
        shapes |= {"predictor.bias": (cfg["predictor_class"],)}
    return shapes


def trained_shapes(
    llm: Mapping[str, Any], whisper: Mapping[str, Any], beats: Mapping[str, Any], hidden: int = 768
) -> Shapes:
    """What upstream's ``save_checkpoint`` keeps: connector and LoRA, and second names of tied tensors.

    Args:
        llm: config.
        whisper: config.
        beats: ``cfg``.
        hidden: width of the Q-Former, of 64 a head; bert-base's 768 upstream.
    """
    family = "gemma" if llm["model_type"] == "gemma2" else "llama"
    own = llm_shapes(llm)
    shapes: Shapes = {"speech_query_tokens": (1, 1, hidden)}
    for layer in range(llm["num_hidden_layers"]):
        for name in ("q_proj", "v_proj"):
            rows, columns = own[f"model.layers.{layer}.self_attn.{name}.weight"]
            stem = f"{family}_model.base_model.model.model.layers.{layer}.self_attn.{name}.lora_"
            shapes |= {f"{stem}A.default.weight": (8, columns), f"{stem}B.default.weight": (rows, 8)}
    if tied(llm):
        # with the row of the pad token that upstream adds
        shapes[f"{family}_model.base_model.model.lm_head.weight"] = (
            llm["vocab_size"] + 1,
            llm["hidden_size"],
        )
    speech, audio = whisper["d_model"], beats["encoder_embed_dim"]
    for norm, width in (("ln_speech", speech), ("ln_audio", audio)):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for layer in range(1, beats["encoder_layers"]):
        name = f"beats.encoder.layers.{layer}.self_attn.relative_attention_bias.weight"
        shapes[name] = (beats["num_buckets"], beats["encoder_attention_heads"])
    stem = "speech_Qformer.bert."
    shapes[f"{stem}embeddings.position_ids"] = (1, _BERT_POSITIONS)
    shapes |= {f"{stem}embeddings.LayerNorm.{leaf}": (hidden,) for leaf in ("weight", "bias")}
    for layer in range(2):
        block = f"{stem}encoder.layer.{layer}."
        for attention, heard in (("attention", hidden), ("crossattention", speech + audio)):
            for name, columns in (("query", hidden), ("key", heard), ("value", heard)):
                shapes[f"{block}{attention}.self.{name}.weight"] = (hidden, columns)
                shapes[f"{block}{attention}.self.{name}.bias"] = (hidden,)
            shapes |= _dense(f"{block}{attention}.output.", hidden, hidden)
        shapes[f"{block}intermediate_query.dense.weight"] = (4 * hidden, hidden)
        shapes[f"{block}intermediate_query.dense.bias"] = (4 * hidden,)
        shapes |= _dense(f"{block}output_query.", hidden, 4 * hidden)
    shapes[f"speech_{family}_proj.weight"] = (llm["hidden_size"], hidden)
    shapes[f"speech_{family}_proj.bias"] = (llm["hidden_size"],)
    return shapes


def _dense(stem: str, rows: int, columns: int) -> Shapes:
    return {
        f"{stem}dense.weight": (rows, columns),
        f"{stem}dense.bias": (rows,),
        f"{stem}LayerNorm.weight": (rows,),
        f"{stem}LayerNorm.bias": (rows,),
    }


def tied(config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding, which is Gemma-2's default."""
    return bool(config.get("tie_word_embeddings", config["model_type"] == "gemma2"))
