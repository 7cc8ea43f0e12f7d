"""Conversion: what comes out is what went in, nothing is half done, and a kill costs a few files at most."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from audiolm_compress.cli import _run
from audiolm_compress.data.audio import load_audio
from audiolm_compress.data.clip_file import Form
from audiolm_compress.data.convert import NoSteps, convert
from audiolm_compress.data.records import FILE, opened_records
from audiolm_compress.errors import DataError


def sound(
    path: Path,
    rate: int = 16_000,
    subtype: str = "PCM_16",
    channels: int = 1,
    frames: int = 4_000,
    seed: int = 0,
) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.4, 0.4, (frames, channels))
    soundfile.write(path, noise, rate, subtype=subtype)
    return path.name


def annotation(folder: Path, paths: list[str], **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"path": path, "text": f"text of {path}", "task": "asr", **more} for path in paths]
    (folder / "all.json").write_text(json.dumps({"annotation": entries}))
    return folder / "all.json"


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the records, whose order is that of the work."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def entries(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["annotation"])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("form", ["flac", "wav"])
def test_same_rate_and_width_are_lossless(tmp_path: Path, subtype: str, form: Any) -> None:
    sound(tmp_path / "in/a/1.wav", subtype=subtype, channels=2)
    convert(annotation(tmp_path / "in", ["a/1.wav"]), tmp_path / "out", form=Form(form))
    before, _ = soundfile.read(tmp_path / "in/a/1.wav", dtype="int32")
    after, rate = soundfile.read(tmp_path / f"out/a/1.{form}", dtype="int32")
    assert rate == 16_000
    assert np.array_equal(after, before[:, 0])


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize("channel", ["first", "mean"])
def test_a_resampled_clip_loads_as_before(tmp_path: Path, rate: int, channel: Any) -> None:
    sound(tmp_path / "in/1.wav", rate, channels=2, frames=rate + 7)
    convert(annotation(tmp_path / "in", ["1.wav"]), tmp_path / "out", form=Form(channel=channel))
    before = load_audio(tmp_path / "in/1.wav", channel=channel).waveform
    after = load_audio(tmp_path / "out/1.flac").waveform
    assert after.shape == before.shape
    assert (after - before).abs().max() <= 0.51 / 2**15  # half a step of 16 bits


def test_what_lies_beyond_full_scale_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/1.wav", np.full(4_000, 1.5), 16_000, subtype="FLOAT")
    sound(tmp_path / "in/2.wav")
    done = convert(annotation(tmp_path / "in", ["1.wav", "2.wav"]), tmp_path / "out")
    assert (done.files, done.clipped) == (2, 1)


def test_entries_keep_their_keys(tmp_path: Path) -> None:
    for name in ("1.wav", "2.wav", "b.3"):
        sound(tmp_path / "audio" / name if name != "b.3" else tmp_path / "audio/b.wav")
    (tmp_path / "audio/b.wav").rename(tmp_path / "audio/b.3")
    given = annotation(
        tmp_path / "in", ["1.wav", "b.3", "1.wav"], testset_id=None, Q="é?", expand_wav=["2.wav"], speaker=3
    )
    done = convert(given, tmp_path / "out", prefix=tmp_path / "audio")
    assert (done.entries, done.files) == (3, 3)
    for old, new in zip(entries(given), entries(done.annotation), strict=True):
        stem = old["path"].removesuffix(".wav")
        assert new == {**old, "path": f"{stem}.flac", "expand_wav": ["2.flac"]}
    assert (tmp_path / "out/b.3.flac").is_file()


def test_damaged_files_stop_or_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("1.wav", "2.wav", "3.wav"):
        sound(folder / name)
    (folder / "2.wav").write_bytes((folder / "2.wav").read_bytes()[:2_000])
    (folder / "text.wav").write_text("no audio")
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan]), 16_000, subtype="FLOAT")
    (folder / "link.wav").symlink_to(sound(tmp_path / "elsewhere.wav") and tmp_path / "elsewhere.wav")
    names = ["1.wav", "2.wav", "text.wav", "nan.wav", "link.wav", "gone.wav", "3.wav"]
    given = annotation(folder, names)
    with pytest.raises(DataError, match=r"5 of 7 audio files(.|\n)*skip-damaged"):
        convert(given, tmp_path / "out")
    assert not (tmp_path / "out/all.json").exists()
    assert (tmp_path / "out/3.flac").exists()
    done = convert(given, tmp_path / "out", skip_damaged=True)
    assert [entry["path"] for entry in entries(done.annotation)] == ["1.flac", "3.flac"]
    assert (done.kept, len(done.left_out)) == (2, 5)
    listed = (tmp_path / "out/all.left_out.csv").read_text().splitlines()
    assert len(listed) == 6
    reasons = {"2": "truncated", "text": "decoded", "nan": "NaN", "link": "leads out", "gone": "missing"}
    for name, reason in reasons.items():
        (line,) = [line for line in listed if f"/{name}.wav," in line]
        assert reason in line
    shutil.copy(folder / "1.wav", folder / "gone.wav")
    with pytest.raises(DataError, match="4 of 7"):
        convert(given, tmp_path / "out")
    assert len(entries(done.annotation)) == 2, "what was there before is left alone"


def test_a_finished_file_is_known_by_its_content(tmp_path: Path) -> None:
    names = [f"{number}.wav" for number in range(6)]
    for number, name in enumerate(names):
        sound(tmp_path / "in" / name, seed=number)
    given = annotation(tmp_path / "in", names)
    out = tmp_path / "out"
    assert convert(given, out).kept == 0
    whole = contents(out)
    (out / "0.flac").write_bytes(whole["0.flac"][:-5])  # torn
    (out / "1.flac").write_bytes(whole["2.flac"])  # another one's
    (out / "3.flac").unlink()
    with (out / FILE).open("r+b") as file:  # a record that was cut off
        file.truncate((out / FILE).stat().st_size - 3)
    assert convert(given, out).kept == 2
    assert contents(out) == whole
    sound(tmp_path / "in/4.wav", seed=99)
    assert convert(given, out).kept == 5
    assert contents(out)["4.flac"] != whole["4.flac"]
    assert convert(given, out, form=Form(rate=8_000)).kept == 0


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a.wav", "a.mp3"], r"entry 1: 'a.mp3' and another file would both become 'a.flac'"),
        (["../a.wav"], r"leaves its folder through '..'"),
        (["/a.wav"], r"is absolute"),
    ],
)
def test_bad_entries_stop_before_any_work(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(annotation(tmp_path / "in", paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"'expand_wav' has '\.\./b\.wav'"):
        convert(annotation(tmp_path / "in", ["a.wav"], expand_wav=["../b.wav"]), tmp_path / "out")


def test_sources_are_never_written_over(tmp_path: Path) -> None:
    sound(tmp_path / "in/1.flac")
    given = annotation(tmp_path / "in", ["1.flac"])
    with pytest.raises(DataError, match="holds what is to be converted"):
        convert(given, tmp_path / "in")


def test_no_source_below_the_output_is_written_over(tmp_path: Path) -> None:
    sound(tmp_path / "in/x.wav")
    sound(tmp_path / "in/out/x.flac", seed=1)
    before = (tmp_path / "in/out/x.flac").read_bytes()
    given = annotation(tmp_path / "lists", ["x.wav", "out/x.flac"])
    with pytest.raises(DataError, match=r"entry 0: 'x.wav' would be written over .*x.flac', which is to be"):
        convert(given, tmp_path / "in/out", prefix=tmp_path / "in")
    assert (tmp_path / "in/out/x.flac").read_bytes() == before
    convert(given, tmp_path / "in/flac16", prefix=tmp_path / "in")


def test_one_process_writes_to_a_folder(tmp_path: Path) -> None:
    sound(tmp_path / "in/1.wav")
    given = annotation(tmp_path / "in", ["1.wav"])
    with (
        opened_records(tmp_path / "out"),
        pytest.raises(DataError, match="another process writes clips there"),
    ):
        convert(given, tmp_path / "out")


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    sound(tmp_path / "in/1.wav")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        convert(annotation(tmp_path / "in", ["1.wav"]), tmp_path / "out")


SCRIPT = """
import sys
from audiolm_compress.data.convert import convert
convert(sys.argv[1], sys.argv[2], workers=2)
"""


def test_a_killed_conversion_goes_on(tmp_path: Path) -> None:
    names = [f"{index:03d}.wav" for index in range(100)]
    for index, name in enumerate(names):
        sound(tmp_path / "in" / name, 22_050, seed=index)
    given, out = annotation(tmp_path / "in", names), tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, given, out])
    until = time.monotonic() + 120
    while len(list(out.glob("*.flac"))) < 20:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children()
    process.kill()  # the first process alone: its workers must end by themselves
    assert process.wait() == -signal.SIGKILL
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not (out / "all.json").exists()
    made = len(list(out.glob("*.flac")))
    assert made < 100
    done = convert(given, out)
    # A file that had its name but no record yet is made again: at most those of the batches under way.
    assert made - 64 <= done.kept <= made
    convert(given, tmp_path / "at_once")
    assert contents(out) == contents(tmp_path / "at_once")


class Interrupted(NoSteps):
    """Ctrl-C after some files."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_conversion_goes_on(tmp_path: Path, workers: int) -> None:
    names = [f"{index}.wav" for index in range(12)]
    for index, name in enumerate(names):
        sound(tmp_path / "in" / name, seed=index)
    given, out = annotation(tmp_path / "in", names), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(given, out, workers=workers, steps=Interrupted(5))
    assert sorted(path.suffix for path in out.iterdir() if path.suffix != ".flac") == [""]
    assert convert(given, out).kept == 4


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    sound(tmp_path / "in/1.wav", frames=160_000)
    given, out = annotation(tmp_path / "in", ["1.wav"]), tmp_path / "out"
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))" + SCRIPT
    script = script.replace(", workers=2", "")
    done = subprocess.run([sys.executable, "-c", script, given, out], capture_output=True, text=True)
    assert "1.flac: cannot be written" in done.stderr.splitlines()[-1]
    assert [path.name for path in out.iterdir()] == [FILE]


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound(tmp_path / "in/1.wav")
    given, out = annotation(tmp_path / "in", ["1.wav", "gone.wav"]), str(tmp_path / "out")
    arguments = ["data", "convert", str(given), "--out", out, "--workers", "1"]
    assert _run(arguments) == 2
    assert "1 of 2 audio files cannot be converted" in capsys.readouterr().err
    assert _run([*arguments, "--skip-damaged"]) == 0
    captured = capsys.readouterr()
    assert f"1 files converted, 1 of them earlier; 1 entries in {out}/all.json" in captured.out
    assert "left out: 1 x missing" in captured.err
