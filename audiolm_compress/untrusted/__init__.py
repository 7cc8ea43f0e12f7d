"""What is asked of a file before it is believed: checkpoints, annotations and recipes come from anywhere.

Each function raises ``ValueError`` with the reason, without the file's name, so that whoever reads the file
says what it was needed for. None of them executes anything or allocates by a number that the file claims.
"""

from audiolm_compress.untrusted.json_text import parse_json, parse_json_at, read_json
from audiolm_compress.untrusted.paths import OUTSIDE_ALLOWED, escapes, linked_outside
from audiolm_compress.untrusted.sizes import size_problems
from audiolm_compress.untrusted.text import check_size, read_text

__all__ = [
    "OUTSIDE_ALLOWED",
    "check_size",
    "escapes",
    "linked_outside",
    "parse_json",
    "parse_json_at",
    "read_json",
    "read_text",
    "size_problems",
]
