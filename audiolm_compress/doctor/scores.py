"""Scores of captions that need what is not in a Python package: SPICE needs Java, FENSE two models."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from audiolm_compress.doctor.finding import Finding
from audiolm_compress.metrics.spider import spice_missing

SENTENCE_MODEL = "sentence-transformers/paraphrase-TinyBERT-L6-v2"  # the paper's (arXiv:2110.04684)
_STEPS = (
    "install a Java runtime of version 8 to 11 (such as Temurin 11), name it if it is not the first in PATH "
    "(export AAC_METRICS_JAVA_PATH=/path/to/bin/java), then run aac-metrics-download"
)


def scores() -> Iterator[Finding]:
    """WER and CIDEr-D need nothing more; the others do."""
    yield Finding("WER, CIDEr-D", "ok", "need nothing more")
    reason = spice_missing().removeprefix("SPICE not installed: ")
    if reason:
        found = f"{reason}; here: {_java()}"
        yield Finding("SPIDEr, SPICE", "missing", found, "reports have CIDEr-D alone for captions", _STEPS)
    else:
        yield Finding("SPIDEr, SPICE", "ok", f"Java and SPICE's files are there; {_java()}")
    yield _sentences()


def _java() -> str:
    from aac_metrics.utils.globals import get_default_java_path

    try:
        done = subprocess.run(
            [get_default_java_path(), "-version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return "no Java"
    return (done.stderr or done.stdout).partition("\n")[0]


def _sentences() -> Finding:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(SENTENCE_MODEL, "config.json")
    how = "--set benchmark.sentence_model=FOLDER (FENSE: fluency_model as well, see metrics/fluency.py)"
    if isinstance(cached, str):
        return Finding("similarity, FENSE", "ok", f"{SENTENCE_MODEL} is in the model cache; used with {how}")
    return Finding(
        "similarity, FENSE",
        "missing",
        f"{SENTENCE_MODEL} is not in the model cache; a model in another folder is not looked for",
        "captions have no score that knows synonyms, unless a recipe names a folder",
        f"hf download {SENTENCE_MODEL} --local-dir FOLDER, then {how}",
    )
