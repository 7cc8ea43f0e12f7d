"""Puts the trained parts together to the model that is shipped, and tries it on waveforms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import soundfile
import torch
from network import END, PROMPTS, Network
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.wer import wer
from audiolm_compress.salmonn.beats import load_beats
from audiolm_compress.salmonn.decode import DecodeSettings
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

DECODE = DecodeSettings(max_new_tokens=64, num_beams=4, end_sym=END)


def assemble(network: Network, tokenizer: PreTrainedTokenizerBase, whisper: Path, beats: Path) -> Salmonn:
    """The whole model: encoders and connector in 32 bit, the language model in bfloat16."""
    model = Salmonn(
        WhisperEncoder.from_pretrained(whisper, dtype=torch.float32),
        load_beats(beats).float(),
        network.connector.float(),
        network.llm,  # type: ignore[arg-type]  # a Module types its attributes as modules
        tokenizer,
        WhisperFeatureExtractor.from_pretrained(whisper),
        PROMPTS,
        {"default": DECODE},
        end_symbol=END,
    )
    model.cast(torch.bfloat16, ("llm",))
    return model.eval().requires_grad_(False)


def score_folder(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """Load a model folder and score it on its own clips, one clip at a time, by groups of clips."""
    model = load_model(folder)
    groups: dict[str, dict[str, Any]] = {}
    for entry in json.loads((folder / "data" / f"{split}.json").read_text(encoding="utf-8"))["annotation"]:
        wave, _ = soundfile.read(folder / "data" / entry["path"], dtype="float32")
        answer = model.generate([torch.from_numpy(wave)], task=entry["task"])[0]
        group = groups.setdefault(entry["testset_id"].partition("/")[0], {"task": entry["task"], "clips": []})
        references = entry.get("texts", [entry["text"]])
        group["clips"].append({"id": entry["testset_id"], "references": references, "answer": answer})
    for group in groups.values():
        answers = [clip["answer"] for clip in group["clips"]]
        references = [clip["references"] for clip in group["clips"]]
        if group["task"] == "asr":
            group |= {"metric": "WER", "score": wer(answers, [texts[0] for texts in references]).wer}
        else:
            group |= {"metric": "CIDEr-D", "score": cider_d(answers, references)[0]}
    return groups
