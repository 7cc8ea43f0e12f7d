"""GGUF files, opened by gguf and transformers; benchmarks/gguf_llama_cpp.py opens them with llama.cpp."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from audiolm_compress.cli.export import GGUF_TYPES
from audiolm_compress.errors import AudioLMError
from audiolm_compress.export import export
from audiolm_compress.export.gguf import TYPES, write_gguf
from audiolm_compress.export.gguf_architecture import llama3_factors
from audiolm_compress.export.gguf_vocabulary import PATTERNS
from audiolm_compress.passes import LayerDrop
from audiolm_compress.passes.base import Context
from audiolm_compress.quantization import QuantizedEmbedding, QuantizedLinear, Scheme, TiedHead
from audiolm_compress.quantization.kernels import Dequantize
from audiolm_compress.salmonn import store
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.vocabulary import config_ids, open_vocabulary, trim_vocabulary

Loader = Callable[..., Salmonn]
TEXTS = [
    "describe the audio",
    " two  spaces and a speech\n\nASSISTANT: é 漢字 🙂",
    "USER: <bos>What's that?<eos> 1234",
    "the theatre ends here; the end.",
]


def file_of(folder: Path) -> Path:
    (file,) = folder.glob("*.gguf")
    return file


def opened(file: Path, **settings: Any) -> torch.nn.Module:
    """By transformers, which leaves out of a Gemma 2 file what llama.cpp reads or derives (window, scale)."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if config.model_type == "gemma2":
        fields = gguf.GGUFReader(file).fields
        config.sliding_window = fields["gemma2.attention.sliding_window"].contents()
        config.query_pre_attn_scalar = fields["gemma2.attention.key_length"].contents()
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, config=config, dtype=torch.float32, **settings
    ).eval()


@torch.inference_mode()
def logits(llm: torch.nn.Module, rows: int) -> torch.Tensor:
    ids = torch.randint(0, rows, (2, 48), generator=torch.Generator().manual_seed(0))
    return llm(input_ids=ids).logits.float()


def same_tokens(model: Salmonn, folder: Path) -> None:
    again = AutoTokenizer.from_pretrained(folder, gguf_file=file_of(folder).name)
    for text in TEXTS:
        assert again(text).input_ids == model.tokenizer(text).input_ids, text


def with_llm(model: Salmonn, config: Any) -> Salmonn:
    """The model with a random LLM of another config, on the same tokenizer."""
    torch.manual_seed(0)
    config.vocab_size = model.causal_lm.config.vocab_size
    model.llm = AutoModelForCausalLM.from_config(config).eval()
    return model


@pytest.mark.parametrize(("variant", "kind"), [("gemma", "f32"), ("llama", "q4_0")])
def test_file_has_all_tensors_and_what_llama_cpp_asks_for(
    small_model: Loader, tmp_path: Path, variant: str, kind: str
) -> None:
    model = small_model(variant)
    model.merge_lora()
    (said, *_) = write_gguf(model, tmp_path, kind=kind)
    reader, config = gguf.GGUFReader(file_of(tmp_path)), model.causal_lm.config
    name = config.model_type
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "gemma2": gguf.MODEL_ARCH.GEMMA2}[name]
    own = {gguf.TENSOR_NAMES[one] for one in gguf.MODEL_TENSORS[arch]}
    experts = ("_exp", "_gate_inp", "rope_freqs", "attn_rot_embd")
    expected = {
        f"{one.format(bid=layer)}.weight"
        for one in own
        if not any(part in one for part in experts)
        for layer in range(config.num_hidden_layers)
    }
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() == expected
    shapes = {one.name: tuple(int(size) for size in reversed(one.shape)) for one in reader.tensors}
    assert shapes["blk.2.ffn_down.weight"] == (config.hidden_size, config.intermediate_size)
    assert shapes["token_embd.weight"] == (config.vocab_size, config.hidden_size)
    uneven = 0
    for tensor in reader.tensors:
        row = shapes[tensor.name][-1]
        high = "q8_0" if tensor.name in ("token_embd.weight", "output.weight") else "q4_0"
        wanted = "f32" if kind == "f32" or len(tensor.shape) == 1 else "f16" if row % 32 else high
        uneven += wanted == "f16"
        assert tensor.tensor_type.name.lower() == wanted, tensor.name
    assert uneven == (3 if (variant, kind) == ("llama", "q4_0") else 0)  # its FFN is 144 wide
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.architecture"] == name
    assert fields[f"{name}.attention.head_count_kv"] == config.num_key_value_heads
    assert fields[f"{name}.attention.key_length"] == config.head_dim
    assert fields[f"{name}.rope.freq_base"] == config.rope_parameters["rope_theta"]
    assert (
        len(fields["tokenizer.ggml.tokens"]) == len(fields["tokenizer.ggml.token_type"]) == config.vocab_size
    )
    assert fields["tokenizer.ggml.eos_token_id"] == model.tokenizer.eos_token_id
    if variant == "gemma":
        assert fields["gemma2.attention.sliding_window"] == config.sliding_window
        assert fields["gemma2.final_logit_softcapping"] == config.final_logit_softcapping
    assert said.startswith(file_of(tmp_path).name) and kind.upper() in file_of(tmp_path).name


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_transformers_reads_the_same_function_and_tokens(
    small_model: Loader, tmp_path: Path, variant: str
) -> None:
    """The models are random and so steep that 8 bits move logits by up to a third of the largest."""
    done = export(
        store.save(small_model(variant), tmp_path / "model"), "gguf", tmp_path / "gguf", gguf_type="f32"
    )
    assert any("LoRA factors" in note for note in done.notes)
    assert "llama_cpp" in (done.path / "README.md").read_text(encoding="utf-8")
    model = small_model(variant)
    model.merge_lora()
    llm, rows = model.causal_lm.eval(), model.causal_lm.config.vocab_size
    write_gguf(model, tmp_path, kind="q8_0")
    expected = logits(llm, rows)
    largest = expected.abs().max().item()
    for folder, bound in ((done.path, 1e-5), (tmp_path, 0.4)):
        again = opened(file_of(folder), attn_implementation=llm.config._attn_implementation)
        torch.testing.assert_close(logits(again, rows), expected, rtol=0, atol=bound * largest)
    same_tokens(model, tmp_path)


def test_transformers_makes_the_tokens_of_tiny(tmp_path: Path) -> None:
    """Half of its tokens are joins of others that its merges never meet: scores must not make them."""
    model = load_model("tiny")
    model.merge_lora()
    write_gguf(model, tmp_path)
    same_tokens(model, tmp_path)


def test_patterns_are_those_of_transformers() -> None:
    for name, pattern in GGUF_PRE_TOKENIZER_SPLITS.items():
        known = {own: key for (key, _), own in PATTERNS.items()}
        assert known.get(name, pattern) == pattern
    assert set(PATTERNS.values()) & GGUF_PRE_TOKENIZER_SPLITS.keys() == {"llama-bpe", "qwen2"}


def test_trimmed_vocabulary_is_the_files(small_model: Loader, tmp_path: Path) -> None:
    model = small_model("gemma")
    model.merge_lora()
    subwords = open_vocabulary(model)
    wanted = {one for text in TEXTS[:1] for one in model.tokenizer(text).input_ids}
    kept = set().union(*map(subwords.with_parts, subwords.required() | config_ids(model) | wanted))
    before = model.causal_lm.config.vocab_size
    trim_vocabulary(model, subwords, kept)
    write_gguf(model, tmp_path, kind="f32")
    assert len(kept) == opened(file_of(tmp_path)).config.vocab_size < before
    same_tokens(model, tmp_path)


def test_packed_layers_and_tied_heads_are_multiplied_out(rounded: Loader, tmp_path: Path) -> None:
    model = rounded("gemma", Scheme(4, 32), Scheme(3, 32, symmetric=False))
    llm = model.causal_lm
    embedding = llm.get_input_embeddings()
    packed = QuantizedEmbedding.from_weight(embedding.weight.detach(), embedding.scalar_embed_scale)
    model.replace_module("llm.model.embed_tokens", packed)
    model.replace_module("llm.lm_head", TiedHead("llm.model.embed_tokens", packed))
    notes = write_gguf(model, tmp_path)
    assert any("4-bit linear layer" in note for note in notes)
    again = opened(file_of(tmp_path))
    assert torch.equal(again.get_input_embeddings().weight, packed.dense().float())
    for name, layer in llm.named_modules():
        if isinstance(layer, QuantizedLinear):
            assert torch.equal(again.get_submodule(name).weight, layer.dense().float())


@pytest.mark.parametrize("variant", ["gemma", "llama"])
def test_grids_that_blocks_can_hold_keep_their_integers(
    rounded: Loader, tmp_path: Path, variant: str
) -> None:
    """In q4_0 a weight is the product of its code and scale, before rounding it to bfloat16."""
    model = rounded(variant, Scheme(4, 32), Scheme(3, 64), Scheme(8, -1), Scheme(2, 32))
    notes = write_gguf(model, tmp_path, kind="q4_0")
    again = opened(file_of(tmp_path))
    layers = {name: one for name, one in model.causal_lm.named_modules() if isinstance(one, QuantizedLinear)}
    even = {name: one for name, one in layers.items() if one.in_features % 64 == 0}
    assert f"{len(even)} packed matrices keep their integers, scales are float16" in notes
    for name, layer in even.items():
        exact = Dequantize(layer.shape).dense(
            {k: v.float() if v.is_floating_point() else v for k, v in layer.stored().items()}
        )
        assert torch.equal(again.get_submodule(name).weight, exact), name


def test_qwen2_has_biases_and_a_tied_head(small_model: Loader, tmp_path: Path) -> None:
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = with_llm(small_model("llama"), config)
    for name, parameter in model.llm.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    write_gguf(model, tmp_path, kind="f32")
    again = opened(file_of(tmp_path))
    rows = config.vocab_size
    torch.testing.assert_close(logits(again, rows), logits(model.llm, rows), rtol=0, atol=1e-5)


def test_frequencies_of_llama_3_are_those_of_transformers(small_model: Loader, tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
    config = LlamaConfig(**sizes, rope_parameters=scaling, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / scaling["rope_theta"] ** (torch.arange(0, 128, 2) / 128)
    torch.testing.assert_close(plain / llama3_factors(scaling, 128), scaled, rtol=1e-5, atol=0)
    write_gguf(with_llm(small_model("llama"), config), tmp_path)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file_of(tmp_path)).tensors}
    assert found["rope_freqs.weight"].data.max() == 32


def test_layers_that_do_not_alternate_shorten_the_context(small_model: Loader, tmp_path: Path) -> None:
    model = small_model("gemma")
    model.merge_lora()
    context = Context([], torch.Generator().manual_seed(0), lambda: small_model("gemma"))
    LayerDrop.model_validate({"part": "llm", "method": "indices", "drop": [1]}).apply(model, context)
    notes = write_gguf(model, tmp_path, kind="f32")
    assert any("up to 32 tokens" in note for note in notes)
    again, ids = opened(file_of(tmp_path)), torch.arange(32)[None]
    assert again.config.max_position_embeddings == 32
    with torch.inference_mode():
        torch.testing.assert_close(again(ids).logits, model.causal_lm(ids).logits, rtol=0, atol=1e-4)


def change(model: Salmonn, parts: dict[str, Any]) -> None:
    """Another description of the tokenizer's parts."""
    content = json.loads(model.tokenizer.backend_tokenizer.to_str())
    for part, changed in parts.items():
        content[part] = changed(content[part])
    model.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))


def without_a_merge(part: dict[str, Any]) -> dict[str, Any]:
    return part | {"merges": [pair for pair in part["merges"] if pair != ["▁th", "e"]]}


def with_token(token: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A vocabulary with ``token``, to which no merge leads, in the place of another."""

    def change_model(part: dict[str, Any]) -> dict[str, Any]:
        vocab = {token if one == "aption." else one: number for one, number in part["vocab"].items()}
        return part | {"vocab": vocab, "merges": [pair for pair in part["merges"] if "".join(pair) in vocab]}

    return change_model


def test_a_token_that_nobody_makes_is_written(small_model: Loader, tmp_path: Path) -> None:
    """It is "r" and "ing", two tokens, but the merge to "ri" comes before both could be neighbours."""
    model = small_model("gemma")
    model.merge_lora()
    change(model, {"model": with_token("ring")})
    write_gguf(model, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file_of(tmp_path).name)
    for text in ("a ring", "rings during"):
        expected = model.tokenizer(text).input_ids
        assert model.tokenizer.convert_tokens_to_ids("ring") not in expected
        assert again(text).input_ids == expected


def test_runs_of_spaces_are_held_against_the_merges(small_model: Loader, tmp_path: Path) -> None:
    """An added token is cut out of texts that have it, and none with spaces has its signs for them."""
    model = small_model("gemma")
    model.merge_lora()
    number = model.tokenizer.convert_tokens_to_ids("aption.")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = {"id": number, "content": "▁▁", **flags}
    parts = {"pre_tokenizer": lambda _: None, "added_tokens": lambda entries: [*entries, added]}
    change(model, {**parts, "model": with_token("▁▁")})
    assert number not in model.tokenizer("two  spaces").input_ids
    with pytest.raises(AudioLMError, match="do not lead to the token '▁▁'"):
        write_gguf(model, tmp_path)


@pytest.mark.parametrize(("scheme", "said"), [("always", 1), ("first", 2)])
def test_where_spaces_are_put_in_front_is_noted(
    small_model: Loader, tmp_path: Path, scheme: str, said: int
) -> None:
    """Vicuna's tokenizer is one of "first" in transformers 5."""
    model = small_model("gemma")
    model.merge_lora()
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    change(model, {"normalizer": lambda _: None, "pre_tokenizer": lambda _: step})
    notes = write_gguf(model, tmp_path)
    assert sum("llama.cpp puts a space before" in note for note in notes) == said
    fields = gguf.GGUFReader(file_of(tmp_path)).fields
    assert fields["tokenizer.ggml.add_space_prefix"].contents()


@pytest.mark.parametrize(
    ("variant", "parts", "message"),
    [
        ("llama", {"pre_tokenizer": lambda _: {"type": "Whitespace"}}, "neither byte-level"),
        ("llama", {"pre_tokenizer": lambda part: part | {"add_prefix_space": True}}, "add_prefix_space True"),
        ("llama", {"model": lambda part: part | {"ignore_merges": True}}, "ignore_merges True"),
        ("llama", {"normalizer": lambda _: {"type": "Lowercase"}}, "changes texts by Lowercase"),
        ("gemma", {"model": without_a_merge}, "do not lead to the token '▁the'"),
        ("gemma", {"normalizer": lambda _: {"type": "NFKC"}}, "nothing like its step NFKC"),
    ],
)
def test_tokenizers_that_llama_cpp_does_not_have_are_refused(
    small_model: Loader, tmp_path: Path, variant: str, parts: dict[str, Any], message: str
) -> None:
    model = small_model(variant)
    model.merge_lora()
    change(model, parts)
    with pytest.raises(AudioLMError, match=message):
        write_gguf(model, tmp_path)


def test_functions_that_llama_cpp_does_not_compute_are_refused(small_model: Loader, tmp_path: Path) -> None:
    model = small_model("gemma")
    model.merge_lora()
    llm = model.causal_lm
    for name, value in (("query_pre_attn_scalar", 32), ("hidden_activation", "silu"), ("model_type", "phi3")):
        kept = getattr(llm.config, name)
        setattr(llm.config, name, value)
        with pytest.raises(AudioLMError, match=str(value)):
            write_gguf(model, tmp_path)
        setattr(llm.config, name, kept)
    with pytest.raises(AudioLMError, match="gguf-type"):
        write_gguf(model, tmp_path, torch.float16)
    llm.lm_head.weight = torch.nn.Parameter(llm.lm_head.weight * 2)
    with pytest.raises(AudioLMError, match="one matrix for both"):
        write_gguf(model, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(AudioLMError, match="--to gguf alone"):
        export("tiny", "onnx", tmp_path / "onnx", gguf_type="f16")


def test_numbers_too_large_for_float16_leave_nothing(small_model: Loader, tmp_path: Path) -> None:
    model = small_model("llama")
    model.merge_lora()
    with torch.no_grad():
        model.causal_lm.lm_head.weight[0, 0] = 1e6
    folder = store.save(model, tmp_path / "model")
    with pytest.raises(AudioLMError, match=r"output.weight has numbers up to 1e\+06.*--gguf-type bf16"):
        export(folder, "gguf", tmp_path / "gguf", gguf_type="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_one_width_for_all_layers(rounded: Loader, tmp_path: Path) -> None:
    model = rounded("gemma", Scheme(4, 32))
    narrow = model.get_submodule("llm.model.layers.1.self_attn.k_proj")
    model.replace_module("llm.model.layers.1.mlp.up_proj", copy.deepcopy(narrow))
    for kind in ("q4_0", "bf16"):
        with pytest.raises(AudioLMError, match=r"blk\.1\.ffn_up\.weight is \[.*one width for all layers"):
            write_gguf(model, tmp_path, kind=kind)


def test_the_command_offers_every_type() -> None:
    assert GGUF_TYPES == TYPES
