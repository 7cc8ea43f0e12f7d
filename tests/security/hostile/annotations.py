"""Annotations."""

from __future__ import annotations

import json
from pathlib import Path

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.loading import load_examples

from ..conftest import Clean
from .kinds import hostile, wav


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
