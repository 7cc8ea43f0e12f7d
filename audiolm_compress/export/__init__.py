"""Models in the forms of others: what was compressed here, opened elsewhere.

A form is a file of this package with a function that writes a model into a folder, reads back what it wrote
and returns notes. Whatever a form cannot hold is dequantised and noted, or refused;
never left out in silence.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from audiolm_compress import __version__
from audiolm_compress.errors import AudioLMError
from audiolm_compress.export.card import Form, card
from audiolm_compress.export.gguf import check_gguf, write_gguf
from audiolm_compress.export.gptq import write_gptq
from audiolm_compress.export.onnx import USE, check_onnx, write_onnx
from audiolm_compress.export.parts import write_parts
from audiolm_compress.export.upstream import write_upstream
from audiolm_compress.folders import whole_folder
from audiolm_compress.salmonn.load import load_model
from audiolm_compress.salmonn.model import Salmonn

MARK, FORMAT = "export.json", "audiolm_compress export 1"
Write = Callable[[Salmonn, Path, torch.dtype | None], tuple[str, ...]]

FORMS: Mapping[str, tuple[Form, Write]] = {
    "gptq": (
        Form(
            "LLM of an audio language model, GPTQ checkpoint",
            'from gptqmodel import GPTQModel\n\nmodel = GPTQModel.load("PATH OF THIS FOLDER")',
        ),
        write_gptq,
    ),
    "safetensors16": (
        Form(
            "Parts of an audio language model, 16-bit weights",
            "from transformers import AutoModelForCausalLM\n\n"
            'llm = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER/llm", dtype="auto")',
        ),
        write_parts,
    ),
    "gguf": (
        Form(
            "LLM of an audio language model, GGUF",
            'from llama_cpp import Llama\n\nllm = Llama("PATH OF THE .gguf FILE", n_ctx=0)',
            metadata=("pipeline_tag: text-generation", "tags:", "- audiolm-compress", "- gguf"),
        ),
        write_gguf,
    ),
    "onnx": (
        Form(
            "Ears of an audio language model, ONNX",
            USE,
            metadata=("library_name: onnxruntime", "tags:", "- audiolm-compress"),
            limits="The files give what an LLM reads of a clip, not answers; the LLM, its prompts, end "
            "symbol and decode settings stand in the folder they came from.",
        ),
        write_onnx,
    ),
    "upstream": (
        Form(
            "Audio language model in upstream SALMONN's layout",
            "from audiolm_compress import load_model\n\n"
            'model = load_model("PATH OF THIS FOLDER/config.yaml")',
            metadata=("tags:", "- audiolm-compress", "- salmonn"),
            limits="Nothing in it is packed: it is as large as a model of its sizes in plain weights. In "
            "config.yaml the sections datasets and run, which upstream's scripts want, are yours to add.",
            lora=True,
        ),
        write_upstream,
    ),
}
CHECKS: Mapping[str, Callable[[torch.dtype | None], None]] = {"gguf": check_gguf, "onnx": check_onnx}


class Exported(NamedTuple):
    """Where an export lies, and what a user must know about it."""

    path: Path
    notes: tuple[str, ...]


def export(
    source: str | Path,
    form: str,
    out: str | Path,
    *,
    dtype: torch.dtype | None = None,
    gguf_type: str | None = None,
) -> Exported:
    """Write a model in another form, whole or not at all, and read it back.

    Args:
        source: whatever ``load_model`` takes, such as the folder that ``run`` saved.
        form: one of ``FORMS``.
        out: new, empty or an earlier export, which is then replaced.
        dtype: of what is not packed; by default the model's own 16-bit type, or bfloat16.
        gguf_type: of the matrices of a GGUF file, one of ``gguf.TYPES``; by default likewise.

    Raises:
        AudioLMError: nothing to load, ``out`` holds something else, or the form cannot hold this model.
    """
    if form not in FORMS:
        raise AudioLMError(f"--to {form}: no such form; choose {', '.join(FORMS)}")
    described, write = FORMS[form]
    if gguf_type is not None:
        if form != "gguf":
            raise AudioLMError(f"--gguf-type is for --to gguf alone, and this is --to {form}; leave it out")
        write = partial(write_gguf, kind=gguf_type)
    if form in CHECKS:
        CHECKS[form](dtype)  # before minutes of loading
    with whole_folder(Path(out), is_export) as work:
        with warnings.catch_warnings():
            # How fast our kernels are does not matter to what is written.
            warnings.filterwarnings("ignore", message=".*may be slower than 16 bit")
            model = load_model(source)
        merged = 0 if described.lora else model.merge_lora()
        notes = write(model, work, dtype)
        if merged:
            notes = (f"LoRA factors of {merged} layers folded into their weights", *notes)
        (work / "README.md").write_text(card(described, form, str(source), notes), encoding="utf-8")
        content = {"format": FORMAT, "form": form, "version": __version__, "notes": notes}
        (work / MARK).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(Path(out), notes)


def is_export(path: Path) -> bool:
    """Whether ``path`` is a folder that `export` wrote."""
    try:
        return str(json.loads((path / MARK).read_text(encoding="utf-8")).get("format")) == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
