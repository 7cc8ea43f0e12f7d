"""Exports: opened by what they are for, and held against the model that they came from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.cli import export as command
from audiolm_compress.errors import AudioLMError
from audiolm_compress.export import FORMS, export, is_export
from audiolm_compress.export.gptq import dequantize, gptq_tensors, obstacle, settings_of, write_gptq
from audiolm_compress.export.parts import write_parts
from audiolm_compress.quantization import QuantizedEmbedding, QuantizedLinear, Scheme, TiedHead
from audiolm_compress.quantization.adapted import AdaptedLinear
from audiolm_compress.quantization.grids import fit_grid, round_to_grid
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.model import Salmonn

Loader = Callable[..., Salmonn]


def quantized(weight: torch.Tensor, scheme: Scheme, dtype: torch.dtype) -> QuantizedLinear:
    grid = fit_grid(weight, scheme, dtype=dtype)
    return QuantizedLinear.from_codes(round_to_grid(weight, grid, scheme), grid, scheme, None, dtype)


def compressed(model: Salmonn, *schemes: Scheme) -> Salmonn:
    """A bfloat16 model with its blocks' linear layers rounded, by ``schemes`` in turn."""
    model.merge_lora()
    model.cast(torch.bfloat16, ("llm",))
    named = [item for item in model.named_modules() if item[0].startswith("llm.model.layers.")]
    linears = [(name, one) for name, one in named if isinstance(one, torch.nn.Linear)]
    for index, (name, linear) in enumerate(linears):
        scheme = schemes[index % len(schemes)]
        model.replace_module(name, quantized(linear.weight.float(), scheme, torch.bfloat16))
    return model


@torch.inference_mode()
def logits(llm: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return llm(input_ids=ids).logits.float()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_the_packed_layout_says_what_the_layer_computes_with(
    bits: int, symmetric: bool, version: int
) -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    layer = quantized(weight, Scheme(bits, 32, symmetric), torch.float32)
    tensors = gptq_tensors(layer, version, torch.float32)
    assert tensors["qweight"].shape == (96 * bits // 32, 64)
    assert tensors["qzeros"].shape == (3, 64 * bits // 32)
    assert torch.equal(dequantize(tensors, bits, version), layer.dense())


def test_zero_points_of_version_1_are_stored_less_one() -> None:
    """The word of eight symmetric 4-bit zero points in every published GPTQ checkpoint."""
    layer = quantized(torch.randn(32, 32), Scheme(4, 32), torch.float32)
    assert set(gptq_tensors(layer, 1, torch.float32)["qzeros"].flatten().tolist()) == {0x77777777}
    assert gptq_tensors(layer, 2, torch.float32)["qzeros"].unique().tolist() == [0x88888888 - 2**32]


def test_gptq_checkpoint_holds_every_layer(small_model: Loader, tmp_path: Path) -> None:
    model = compressed(small_model("gemma"), Scheme(4, 32), Scheme(4, 32), Scheme(3, 32, symmetric=False))
    folder = store.save(model, tmp_path / "model")
    done = export(folder, "gptq", tmp_path / "gptq")
    config = json.loads((done.path / "config.json").read_text())
    said = config["quantization_config"]
    assert (said["quant_method"], said["bits"], said["group_size"], said["sym"]) == ("gptq", 4, 32, True)
    tensors = load_file(done.path / "model.safetensors")
    layers = {name: one for name, one in model.causal_lm.named_modules() if isinstance(one, QuantizedLinear)}
    assert layers
    for name, layer in layers.items():
        own = {key: tensors.pop(f"{name}.{key}") for key in ("qweight", "qzeros", "scales", "g_idx")}
        version = 2 if said["checkpoint_format"] == "gptq_v2" else 1
        read = dequantize(own, layer.scheme.bits, version).bfloat16()
        assert torch.equal(read, layer.dense().bfloat16())
    others = {name: tensor for name, tensor in model.causal_lm.state_dict().items() if name in tensors}
    assert others.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in others.items())
    three = [name for name, layer in layers.items() if settings_of(layer).bits == 3]
    assert len([key for key in said["dynamic"] if key.startswith("+:")]) == len(three)
    assert any("differ in bits" in note for note in done.notes)
    assert AutoTokenizer.from_pretrained(done.path).get_vocab() == model.tokenizer.get_vocab()


def test_what_gptq_cannot_hold_is_dequantised_and_said(small_model: Loader, tmp_path: Path) -> None:
    model = compressed(small_model("llama"), Scheme(4, 32), Scheme(4, 8))
    done = export(store.save(model, tmp_path / "model"), "gptq", tmp_path / "gptq")
    said = json.loads((done.path / "config.json").read_text())["quantization_config"]
    layers = {name: one for name, one in model.causal_lm.named_modules() if isinstance(one, QuantizedLinear)}
    plain = {name: reason for name, layer in layers.items() if (reason := obstacle(layer))}
    assert 0 < len(plain) < len(layers)
    tensors = load_file(done.path / "model.safetensors")
    for name in plain:
        assert torch.equal(tensors[f"{name}.weight"], layers[name].dense())
    left_out = [key.removeprefix("-:") for key in said["dynamic"] if key.startswith("-:")]
    assert {name for name in layers if any(re.match(one, name) for one in left_out)} == plain.keys()
    for reason in plain.values():
        count = list(plain.values()).count(reason)
        assert f"{count} modules dequantised to 16 bit: {reason}" in done.notes
    assert "groups of 8" in (done.path / "README.md").read_text()


def test_gptq_without_packed_layers_is_refused(small_model: Loader, tmp_path: Path) -> None:
    folder = store.save(small_model("llama"), tmp_path / "model")
    with pytest.raises(AudioLMError, match="none is quantised"):
        export(folder, "gptq", tmp_path / "gptq")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_gptq_says_that_adapters_keep_it_from_packing(small_model: Loader, tmp_path: Path) -> None:
    model = compressed(small_model("gemma"), Scheme(4, 32))
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            model.replace_module(name, AdaptedLinear(layer, 2))
    with pytest.raises(AudioLMError, match="21 layers: part of a layer that is low-rank or has an adapter"):
        write_gptq(model, tmp_path)


@pytest.mark.parametrize("form", ["gptq", "safetensors16"])
def test_releases_before_5_of_transformers_find_their_keys(
    small_model: Loader, tmp_path: Path, form: str
) -> None:
    """Without ``rope_theta`` they would take 10,000 for any Llama, and say nothing."""
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = compressed(small_model("llama"), Scheme(4, 32))
    model.causal_lm.config.rope_parameters = dict(rope)
    FORMS[form][1](model, tmp_path, None)
    folder = tmp_path if form == "gptq" else tmp_path / "llm"
    said = json.loads((folder / "config.json").read_text())
    theta = rope.pop("rope_theta")
    assert (said["torch_dtype"], said["rope_theta"], said["rope_scaling"]) == ("bfloat16", theta, rope)
    assert AutoConfig.from_pretrained(folder).rope_parameters == rope | {"rope_theta": theta}
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_generation_settings_as_vicuna_publishes_them_are_kept(small_model: Loader, tmp_path: Path) -> None:
    """A temperature without sampling, which transformers reads but does not save."""
    model = small_model("llama")
    model.merge_lora()
    published = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2, "max_length": 4096}
    model.causal_lm.generation_config = GenerationConfig.from_dict(published)
    write_parts(model, tmp_path)
    said = json.loads((tmp_path / "llm" / "generation_config.json").read_text())
    assert said.items() >= published.items()


@pytest.mark.parametrize("form", ["gptq", "safetensors16", "upstream"])
def test_heads_that_no_config_can_say_are_refused(small_model: Loader, tmp_path: Path, form: str) -> None:
    model = compressed(small_model("llama"), Scheme(4, 32))
    config = model.causal_lm.config
    config.num_attention_heads = config.num_key_value_heads = 3
    with pytest.raises(AudioLMError, match=r"hidden size .* attention heads"):
        FORMS[form][1](model, tmp_path, None)


@pytest.mark.parametrize("form", ["gptq", "safetensors16"])
def test_numbers_beyond_float16_are_refused(small_model: Loader, tmp_path: Path, form: str) -> None:
    model = compressed(small_model("llama"), Scheme(4, 32))
    with torch.no_grad():
        model.causal_lm.model.norm.weight[0] = 2.0**17
    with pytest.raises(AudioLMError, match=r"model\.norm\.weight has numbers up to 1\.31e\+05.*bfloat16"):
        FORMS[form][1](model, tmp_path, torch.float16)


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_plain_parts_open_in_transformers(small_model: Loader, tmp_path: Path, variant: str) -> None:
    model = compressed(small_model(variant), Scheme(4, 32))
    llm = model.causal_lm
    if variant == "gemma":
        embedding = llm.get_input_embeddings()
        packed = QuantizedEmbedding.from_weight(embedding.weight.detach(), embedding.scalar_embed_scale)
        model.replace_module("llm.model.embed_tokens", packed)
        model.replace_module("llm.lm_head", TiedHead("llm.model.embed_tokens", packed))
    done = export(store.save(model, tmp_path / "model"), "safetensors16", tmp_path / "plain")
    opened = AutoModelForCausalLM.from_pretrained(
        done.path / "llm", dtype=torch.float32, attn_implementation=llm.config._attn_implementation
    )
    assert AutoConfig.from_pretrained(done.path / "llm").tie_word_embeddings == (variant == "gemma")
    ids = torch.randint(0, llm.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    ours = logits(llm, ids)
    # bfloat16 activations here, float32 there: 8 bits of mantissa over two layers.
    torch.testing.assert_close(logits(opened, ids), ours, atol=0.05 * ours.abs().max().item(), rtol=0)
    assert {path.name for path in done.path.iterdir() if path.is_dir()} == set(model.parts())
    speech = WhisperEncoder.from_pretrained(done.path / "speech_encoder", dtype=torch.float32).state_dict()
    for name, tensor in model.speech_encoder.state_dict().items():
        assert torch.equal(speech[name], tensor.bfloat16().float()), name
    assert any("4-bit linear layer" in note for note in done.notes)


def test_other_folders_are_left_alone_and_exports_replaced(small_model: Loader, tmp_path: Path) -> None:
    folder = store.save(small_model("llama"), tmp_path / "model")
    with pytest.raises(AudioLMError, match="left alone"):
        export(folder, "safetensors16", folder)
    first = export(folder, "safetensors16", tmp_path / "plain").path
    (first / "mine.txt").write_text("old")
    assert is_export(export(folder, "safetensors16", first).path)
    assert not (first / "mine.txt").exists()
    with pytest.raises(AudioLMError, match="neither"):
        export(tmp_path / "nothing", "gptq", tmp_path / "other")


def test_the_command_offers_every_form() -> None:
    form = next(option for option in command.params if option.name == "form")
    assert list(form.type.choices) == list(FORMS)
