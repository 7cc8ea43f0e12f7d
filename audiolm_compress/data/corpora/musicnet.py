"""MusicNet (Thickstun et al. 2017, arXiv:1611.09827): chamber music with every note that is played.

Layout of https://zenodo.org/records/5120004: ``train_data/ID.wav`` and ``test_data/ID.wav``, beside them
``train_labels/ID.csv`` and ``test_labels/ID.csv`` with the columns ``start_time,end_time,instrument,...``
(times in samples of 1/44100 s, instruments in General MIDI's numbers from 1), all in the folder or in
``musicnet/``, and ``musicnet_metadata.csv`` with ``id,composer,composition,movement,ensemble,...``.

Upstream trains with questions about this music (SALMONN, arXiv:2310.13289, table 1), which it has not
published; here they are which instruments are played, which ensemble plays and who composed the piece, and
the labels answer. Recordings are minutes long, so that they are cut into clips of 30 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from audiolm_compress.data.corpora.clip import SUFFIXES, Clip, Missing, Offer, Piece, chosen, table
from audiolm_compress.data.header import read_header
from audiolm_compress.errors import DataError

SPLITS = ("train", "test")
SECONDS = 30
_LEAST_SECONDS = 1  # of the last piece of a recording: what is shorter would be padded
_LABEL_RATE = 44_100
_INSTRUMENTS = {
    1: "piano",
    7: "harpsichord",
    41: "violin",
    42: "viola",
    43: "cello",
    44: "double bass",
    61: "horn",
    69: "oboe",
    71: "bassoon",
    72: "clarinet",
    74: "flute",
}
QUESTIONS = {
    "instruments": "Which instruments are played in this music?",
    "ensemble": "What kind of ensemble plays this music?",
    "composer": "Who composed this music?",
}


def offer(folder: Path, splits: Sequence[str] = ()) -> Offer:
    """Up to three questions for each 30 s of some splits; those of the test split have a ``testset_id``.

    Raises:
        DataError: the folder has another layout, or a table is not of the form above.
    """
    root = folder / "musicnet" if (folder / "musicnet").is_dir() else folder
    found = [split for split in SPLITS if (root / f"{split}_data").is_dir()]
    wanted = chosen("MusicNet", folder, found, splits)
    pieces = _metadata(folder, root)
    for split in wanted:
        for file in sorted((root / f"{split}_data").iterdir()):
            if file.suffix in SUFFIXES:
                yield from _recording(file, root / f"{split}_labels", pieces.get(file.stem), split == "test")


def _recording(file: Path, labels: Path, piece: Mapping[str, str] | None, test: bool) -> Offer:
    problem, header = read_header(file)
    seconds = None if header is None else header.seconds
    if seconds is None:
        yield Missing(str(file), problem or "its header does not tell its length")
        return
    if piece is None:
        yield Missing(str(file), "not in musicnet_metadata.csv")
    notes = _notes(labels / f"{file.stem}.csv")
    if notes is None:
        yield Missing(str(file), "no labels of its notes")
    start = 0
    while start < seconds:
        end = min(start + SECONDS, seconds)
        name = f"{file.stem}/{start:04d}"
        if end - start < _LEAST_SECONDS:
            yield Missing(name, "the end of a recording, under 1 s")
            return
        answers = {"instruments": _instruments(notes or (), start, end)}
        if notes and not answers["instruments"]:
            yield Missing(name, "no note in it: not asked for instruments")
        for question in ("ensemble", "composer"):
            answers[question] = (piece or {}).get(question, "").strip()
        for question, answer in answers.items():
            if answer:
                extras = {"testset_id": f"{name}/{question}"} if test else {}
                extras |= {"Q": QUESTIONS[question], "source": "MusicNet"}
                yield Clip(file, (answer,), "QA", extras, Piece(name, start, end))
        start += SECONDS


def _metadata(folder: Path, root: Path) -> dict[str, dict[str, str]]:
    places = [place / "musicnet_metadata.csv" for place in (folder, root)]
    path = next((path for path in places if path.is_file()), places[0])
    return {row["id"]: row for row in table(path, ("id", "composer", "ensemble"))}


def _notes(path: Path) -> list[tuple[float, float, str]] | None:
    """(start, end, instrument) of every note, in seconds; None without the file."""
    if not path.is_file():
        return None
    try:
        return [
            (
                int(row["start_time"]) / _LABEL_RATE,
                int(row["end_time"]) / _LABEL_RATE,
                _INSTRUMENTS[int(row["instrument"])],
            )
            for row in table(path, ("start_time", "end_time", "instrument"))
        ]
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: not of the form of MusicNet's labels ({error!r})") from error


def _instruments(notes: Sequence[tuple[float, float, str]], start: float, end: float) -> str:
    """Those with a note between two times, as text.

    >>> _instruments([(0, 2, "piano"), (1, 3, "violin"), (5, 6, "oboe"), (0, 1, "horn")], 0, 4)
    'piano, violin and horn'
    """
    heard = {instrument for first, last, instrument in notes if first < end and last > start}
    ordered = [name for name in _INSTRUMENTS.values() if name in heard]
    return " and ".join([", ".join(ordered[:-1]), ordered[-1]] if len(ordered) > 1 else ordered)
