"""One source of audio in, clips of one form out: mono FLAC or wav at one sampling rate.

What is computed is what the reader of clips computes (``audio.py``): one channel, soxr's HQ filter, as many
samples as fit, rounded up. Samples are then rounded to 16 bits, or to 24 where the source has more than 16,
without dither. Where neither rate nor width changes every sample is the source's own, bit for bit.

A clip is written under another name, decoded again, compared sample by sample with what was meant, and only
then given its name. Sources are read in blocks, so that their length is no matter of memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audiolm_compress.data.header import most_frames, read_header
from audiolm_compress.data.records import PARTIAL, content, record
from audiolm_compress.data.truncation import promised_frames
from audiolm_compress.errors import DataError

if TYPE_CHECKING:
    from audiolm_compress.data.audio import Channel

Format = Literal["flac", "wav"]
_VERSION = 1  # of what is computed here: another one makes earlier clips unfinished
_BLOCK_SAMPLES = 1 << 18  # of all channels
_MORE_THAN_16_BITS = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"}
# Indexes give the ends of pieces to a hundredth of a second or so, and encoders drop a little of the end.
_MISSING_SECONDS = 0.1


@dataclass(frozen=True)
class Form:
    """What clips are like.

    Attributes:
        format: of the files.
        rate: samples a second.
        channel: ``first`` keeps channel 0, as upstream's reader does; ``mean`` averages all.
    """

    format: Format = "flac"
    rate: int = 16_000
    channel: Channel = "first"


@dataclass(frozen=True)
class Cut:
    """A clip to be made.

    Attributes:
        name: path of the clip relative to the folder, with ``/``.
        start: seconds into the source.
        end: seconds into the source; None for its end.
        known: the record that the clip has, if any.
    """

    name: str
    start: float = 0.0
    end: float | None = None
    known: bytes = b""


@dataclass(frozen=True)
class Job:
    """Clips to be made of one source, which is a file or the bytes of one."""

    source: Path | bytes
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one clip.

    Attributes:
        name: of the clip.
        reason: why the source does not give it; empty if it is there.
        record: of the clip.
        kept: it was there already.
        clipped: samples that lay beyond full scale and were set to it.
    """

    name: str
    reason: str = ""
    record: bytes = b""
    kept: bool = False
    clipped: int = 0


def make_clips(job: Job, folder: Path, form: Form) -> list[Outcome]:
    """Make the clips of one source, or find that they are there.

    Raises:
        DataError: a clip cannot be written, or reads back differently. What is wrong with a source is told
            in the outcomes.
    """
    if not job.cuts:
        return []
    if isinstance(job.source, Path):
        return _of_file(job.source, job.cuts, folder, form)
    copy = folder / PARTIAL / f"{record(job.cuts[0].name).hex()}.source"
    try:
        copy.write_bytes(job.source)
    except OSError as error:
        raise _unwritten(copy, error.strerror) from error
    try:
        return _of_file(copy, job.cuts, folder, form)
    finally:
        copy.unlink()


def _of_file(source: Path, cuts: tuple[Cut, ...], folder: Path, form: Form) -> list[Outcome]:
    try:
        origin = content(source) if source.is_file() else ""
    except OSError as error:
        return [Outcome(cut.name, f"cannot be read ({error.strerror or error})") for cut in cuts]
    problem, bits = "", 0
    outcomes = []
    for cut in cuts:
        made_by = (_VERSION, form.format, form.rate, form.channel, cut.name, cut.start, cut.end, origin)
        target = folder / cut.name
        if origin and cut.known and target.is_file() and record(made_by, content(target)) == cut.known:
            outcomes.append(Outcome(cut.name, record=cut.known, kept=True))
            continue
        if not bits and not problem:
            problem, bits = _looked_at(source)
        if problem:
            outcomes.append(Outcome(cut.name, problem))
            continue
        written = folder / PARTIAL / f"{record(cut.name).hex()}.{form.format}"
        outcomes.append(_made(_Reader(source, cut, form, bits), written, target, made_by))
    return outcomes


def _looked_at(source: Path) -> tuple[str, int]:
    """Why a source cannot be used, or "", and the bits that its samples are to have."""
    problem, _ = read_header(source)
    if problem:
        return problem, 0
    try:
        with soundfile.SoundFile(source) as file:
            return "", 24 if file.subtype in _MORE_THAN_16_BITS else 16
    except soundfile.LibsndfileError as error:
        return f"cannot be decoded as audio ({error.error_string.strip()})", 0


def _made(reader: _Reader, written: Path, target: Path, made_by: tuple[object, ...]) -> Outcome:
    cut, form = reader.cut, reader.form
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        meant = hashlib.blake2b()
        try:
            with _Unsynced(
                written, "w", form.rate, 1, f"PCM_{reader.bits}", format=form.format.upper()
            ) as file:
                for block in reader.blocks():
                    meant.update(block.tobytes())
                    file.write(block)
            if reader.reason:
                return Outcome(cut.name, reader.reason)
            if _decoded(written) != (reader.given, meant.digest()):
                raise _unwritten(target, "it reads back differently; is the disk full?")
        except soundfile.LibsndfileError as error:
            raise _unwritten(target, error.error_string.strip()) from error
        made = record(made_by, content(written))
        written.replace(target)
    except OSError as error:
        raise _unwritten(target, error.strerror or str(error)) from error
    finally:
        written.unlink(missing_ok=True)
    return Outcome(cut.name, record=made, clipped=reader.clipped)


class _Unsynced(soundfile.SoundFile):
    """Written without waiting for the disk, many times faster: what a power cut tears, the records tell."""

    def flush(self) -> None:
        """Leave it to closing, which completes the file."""


class _Stream(soundfile.SoundFile):
    """Read from beginning to end without seeking, which fails in a flac that does not know its length."""

    def seekable(self) -> bool:
        return False


class _Reader:
    """Reads one piece of a source as samples of the wanted form, and says what is wrong with it."""

    def __init__(self, source: Path, cut: Cut, form: Form, bits: int) -> None:
        self._source, self.cut, self.form, self.bits = source, cut, form, bits
        self.reason = ""
        self.given = self.clipped = 0

    def blocks(self) -> Iterator[NDArray[np.int32]]:
        """Samples of 32 bits, of which the lower ones are zero; after the last, ``reason`` is known."""
        try:
            yield from map(self._rounded, self._resampled())
        except soundfile.LibsndfileError as error:
            self.reason = f"cannot be decoded as audio ({error.error_string.strip()})"
        except OSError as error:
            self.reason = f"cannot be read ({error.strerror or error})"

    def _rounded(self, samples: NDArray[np.float64]) -> NDArray[np.int32]:
        scale = 2.0 ** (self.bits - 1)
        scaled = np.rint(samples * scale)
        fitting = scaled.clip(-scale, scale - 1)
        # Full scale itself lies one step beyond the largest sample; that is no clipping.
        self.clipped += int(np.count_nonzero(np.abs(scaled - fitting) > 1))
        self.given += len(fitting)
        return fitting.astype(np.int32) << (32 - self.bits)

    def _resampled(self) -> Iterator[NDArray[np.float64]]:
        with soundfile.SoundFile(self._source) as file:
            rate = file.samplerate
        if rate == self.form.rate:
            yield from self._mono()
            return
        stream = soxr.ResampleStream(rate, self.form.rate, 1, dtype="float64", quality="HQ")
        read = made = 0
        for block in self._mono():
            read += len(block)
            samples = stream.resample_chunk(block)
            made += len(samples)
            yield samples
        if self.reason:
            return
        rest = stream.resample_chunk(np.zeros(0), last=True)
        length = -(-read * self.form.rate // rate)  # rounded up, as librosa and audio.py do; soxr rounds
        yield np.pad(rest, (0, max(0, length - made - len(rest))))

    def _mono(self) -> Iterator[NDArray[np.float64]]:
        cut = self.cut
        with (soundfile.SoundFile if cut.start else _Stream)(self._source) as file:
            rate = file.samplerate
            first = round(cut.start * rate)
            wanted = most_frames(rate) + 1 if cut.end is None else round(cut.end * rate) - first
            if first and first < file.frames:
                file.seek(first)
            frames = 0
            size = max(1, _BLOCK_SAMPLES // file.channels)
            while frames < wanted and first < max(1, file.frames):
                block = file.read(min(size, wanted - frames), dtype="float64", always_2d=True)
                if len(block) == 0:
                    break
                frames += len(block)
                mono = block[:, 0] if self.form.channel == "first" else block.mean(axis=1)
                if not np.isfinite(mono).all():
                    self.reason = "holds NaN or infinite samples"
                    return
                yield mono
            self.reason = self._shortcoming(frames, wanted, file)

    def _shortcoming(self, frames: int, wanted: int, file: soundfile.SoundFile) -> str:
        if self.cut.end is not None:
            missing = (wanted - frames) / file.samplerate
            end = f"ends {missing:.2f} s before the piece does"
            return end if frames == 0 or missing > _MISSING_SECONDS else ""
        if frames > most_frames(file.samplerate):
            return "goes on for longer than a header may say; cut it into clips"
        promised = promised_frames(self._source, file.frames) or 0
        if frames < promised and not self.cut.start:
            return f"truncated: {promised} frames are promised, {frames} could be read"
        return "" if frames else "no samples in the file"


def _decoded(path: Path) -> tuple[int, bytes]:
    """How many samples a written file gives, and a digest of them."""
    found, frames = hashlib.blake2b(), 0
    with soundfile.SoundFile(path) as file:
        while len(block := file.read(_BLOCK_SAMPLES, dtype="int32")):
            found.update(block.tobytes())
            frames += len(block)
    return frames, found.digest()


def _unwritten(target: Path, reason: str | None) -> DataError:
    return DataError(
        f"{target}: cannot be written ({reason}); finished clips are kept, the same command goes on"
    )
