"""Similarity and fluency of captions against aac-metrics, with small random models made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from audiolm_compress.errors import DataError
from audiolm_compress.measurement.clip_result import ClipResult
from audiolm_compress.measurement.scoring import score
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.metrics.fluency import THRESHOLD, error_probabilities, fense, fluency_errors
from audiolm_compress.metrics.similarity import sentence_similarity

WORDS = ["a", "dog", "barks", "while", "rain", "falls", "man", "speaks", "and", "the", "wind", "blows"]
TEXTS = [*(" ".join(WORDS[start : start + 5]) for start in range(8)), "A, man SPEAKS."]
CANDIDATES = ["A dog barks.", "rain falls and the wind blows and blows", ""]
REFERENCES = [["a dog barks", "the dog barks while rain falls"], ["rain falls"], ["the wind", "man speaks"]]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A folder as sentence-transformers writes it, with texts cut at 8 tokens."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), model_max_length=8)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate({"": "Transformer", "1_Pooling": "Pooling"}.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture
def detector(encoder: Path) -> Path:
    """The same BERT with a classifier that finds an error in about every second text."""
    weights = load_file(encoder / "model.safetensors")
    weights = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    torch.manual_seed(1)
    weights |= {"clf.weight": 2 * torch.randn(6, 16), "clf.bias": torch.zeros(6)}
    save_file(weights, encoder / "model.safetensors")
    middle = error_probabilities(TEXTS, encoder).logit().median()
    weights["clf.bias"] -= middle - torch.tensor(THRESHOLD).logit() + 1e-3
    save_file(weights, encoder / "model.safetensors")
    return encoder


def test_similarity_equals_that_of_aac_metrics(encoder: Path) -> None:
    from aac_metrics.functional.sbert_sim import sbert_sim
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(encoder), device="cpu", local_files_only=True)
    _, expected = sbert_sim(CANDIDATES, REFERENCES, sbert_model=theirs, device="cpu")
    found = sentence_similarity(CANDIDATES, REFERENCES, encoder)
    assert found == pytest.approx(expected["sbert_sim"].tolist(), abs=1e-6)
    assert len({round(value, 3) for value in found}) == 3
    (same,) = sentence_similarity(["a dog barks"], [["a dog barks"]], encoder)
    assert same == pytest.approx(1.0)
    generator = torch.random.get_rng_state()
    sentence_similarity(CANDIDATES, REFERENCES, encoder)
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_errors_and_fense_equal_those_of_aac_metrics(detector: Path) -> None:
    from aac_metrics.functional.fer import BERTFlatClassifier, fer

    theirs = BERTFlatClassifier.__new__(BERTFlatClassifier)
    torch.nn.Module.__init__(theirs)
    theirs.encoder = BertModel(BertConfig.from_pretrained(detector))
    theirs.dropout, theirs.clf = torch.nn.Dropout(0.1), torch.nn.Linear(16, 6)
    theirs.load_state_dict(load_file(detector / "model.safetensors"))
    tokenizer = AutoTokenizer.from_pretrained(detector)
    _, expected = fer(TEXTS, echecker=theirs, echecker_tokenizer=tokenizer, device="cpu", return_probs=True)
    probabilities = error_probabilities(TEXTS, detector)
    assert probabilities.tolist() == pytest.approx(expected["fer.error_prob"].tolist(), abs=1e-5)
    errors = fluency_errors(TEXTS, detector)
    assert errors == [bool(error) for error in expected["fer"]] and set(errors) == {True, False}
    assert [fense(0.8, error) for error in (False, True)] == pytest.approx([0.8, 0.08])


def test_clips_are_scored_with_the_models_that_the_settings_name(encoder: Path, detector: Path) -> None:
    both = load_file(detector / "model.safetensors")
    weights = {name.removeprefix("encoder."): tensor for name, tensor in both.items()}
    folder = encoder.with_name("plain")
    shutil.copytree(encoder, folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    clips = [
        ClipResult(str(index), "aac", text, tuple(texts), "", 1.0)
        for index, (text, texts) in enumerate(zip(CANDIDATES, REFERENCES, strict=True))
    ]
    settings = BenchmarkSettings(sentence_model=str(folder), fluency_model=str(detector))
    found = score(clips, settings=settings)
    similarity = sentence_similarity(CANDIDATES, REFERENCES, folder)
    errors = fluency_errors(CANDIDATES, detector)
    assert found.scores["similarity"].value == pytest.approx(sum(similarity) / 3)
    assert [clip.scores["fense"].value for clip in found.clips] == [*map(fense, similarity, errors)]
    assert not {"similarity", "fense"} & found.unscored.keys()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "Transformer, Pooling; expected"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "made of Dense"),
        ("config.json", {"model_type": "unheard-of"}, "cannot be loaded"),
    ],
)
def test_other_encoders_are_refused(encoder: Path, file: str, content: object, message: str) -> None:
    (encoder / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        sentence_similarity(CANDIDATES, REFERENCES, encoder)


def test_a_detector_is_no_sentence_encoder(detector: Path) -> None:
    """Its weights have other names; scores of a random encoder would look like any others."""
    with pytest.raises(DataError, match=r"lacks \d+ weights of its encoder, such as embeddings"):
        sentence_similarity(CANDIDATES, REFERENCES, detector)


def test_unusable_detectors_and_inputs_are_refused(encoder: Path) -> None:
    with pytest.raises(DataError, match=r"fluency_model: .*cannot be loaded .*clf.weight"):
        fluency_errors(["a dog"], encoder)
    with pytest.raises(DataError, match="2 captions for 1 clips"):
        sentence_similarity(["a dog", "rain"], [["a dog"]], encoder)
    with pytest.raises(DataError, match="of which 1 have no reference"):
        sentence_similarity(["a dog"], [[]], encoder)
