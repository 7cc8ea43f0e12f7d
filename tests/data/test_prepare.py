"""Preparing corpora: small folders of the layout that each is downloaded in, and the entries they give."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm_compress.cli import _run
from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.data.annotation_writer import left_out_path
from audiolm_compress.data.corpora import audiocaps, clotho, gigaspeech, librispeech, musicnet, wavcaps
from audiolm_compress.data.corpora.clip import Clip, Piece
from audiolm_compress.data.prepare import Prepared, prepare
from audiolm_compress.errors import DataError


def sound(path: Path, seconds: float = 0.2, rate: int = 16_000, **form: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).uniform(-0.4, 0.4, round(seconds * rate))
    soundfile.write(path, noise, rate, **form)


def rows(path: Path, *lines: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)


def entries(done: Prepared) -> list[dict[str, Any]]:
    """What was written, which our own reader must also take."""
    assert len(read_annotation(done.annotation, prefix=done.prefix)) == done.entries
    return list(json.loads(done.annotation.read_text())["annotation"])


def left_out(done: Prepared) -> dict[str, str]:
    with left_out_path(done.annotation).open(newline="") as file:
        return {Path(row["name"]).name: row["reason"] for row in csv.DictReader(file)}


def test_librispeech(tmp_path: Path) -> None:
    for split, speaker in (("test-clean", "61"), ("train-clean-100", "103")):
        chapter = tmp_path / "LibriSpeech" / split / speaker / "1240"
        for number in (0, 1, 3):
            sound(chapter / f"{speaker}-1240-000{number}.flac")
        (chapter / f"{speaker}-1240.trans.txt").write_text(
            f"{speaker}-1240-0000 CHAPTER ONE MISSUS RACHEL LYNDE'S SURPRISE\n"
            f"{speaker}-1240-0001 YES\n{speaker}-1240-0002 NOT THERE\n"
        )
    with pytest.raises(DataError, match="holds test-clean, train-clean-100; choose with --split"):
        prepare(librispeech.offer(tmp_path), tmp_path / "a.json", tmp_path)
    done = prepare(librispeech.offer(tmp_path, ["test-clean"]), tmp_path / "a.json", tmp_path)
    assert entries(done)[0] == {
        "path": "LibriSpeech/test-clean/61/1240/61-1240-0000.flac",
        "text": "Chapter one missus rachel lynde's surprise",
        "task": "asr",
        "testset_id": "61-1240-0000",
        "source": "LibriSpeech",
    }
    assert (done.entries, done.left_out) == (2, 2)
    assert left_out(done) == {"61-1240-0002.flac": "missing", "61-1240-0003.flac": "not in the transcript"}
    inner = tmp_path / "LibriSpeech"
    done = prepare(librispeech.offer(inner, ["train-clean-100"]), tmp_path / "out/b.json", inner)
    assert done.prefix == inner
    assert [(entry["path"], entry.get("testset_id")) for entry in entries(done)] == [
        ("train-clean-100/103/1240/103-1240-0000.flac", None),
        ("train-clean-100/103/1240/103-1240-0001.flac", None),
    ]


def giga_index(folder: Path) -> None:
    def segment(number: int, text: str, start: float, subset: str = "{XS}", **more: Any) -> dict[str, Any]:
        sid = f"POD0000000001_S{number:07d}"
        times = {"begin_time": start, "end_time": start + 0.5}
        return {"sid": sid, "speaker": "N/A", **times, "subsets": [subset, "{XL}"], "text_tn": text, **more}

    segments = [
        segment(0, "AS THEY'RE LEAVING <COMMA> CAN KASH HELP <QUESTIONMARK>", 0.25),
        segment(1, "<MUSIC>", 0.75),
        segment(2, "<COMMA>", 1.0),
        segment(3, "OUT OF RANGE", 1.75),
        segment(4, "TURNED ROUND", 1.0, end_time=0.5),
        segment(5, "<CHEER> HELLO", 1.0),
        segment(6, "NOT ASKED FOR", 1.0, "{L}"),
        segment(7, "ONE IN THE TEST SET <PERIOD>", 1.25, "{TEST}"),
    ]
    path = "audio/podcast/P0000/POD0000000001.opus"
    one = {"title": "N/A", "path": path, "aid": "POD0000000001", "segments": segments, "duration": 2.0}
    gone = {**one, "path": path.replace("1.opus", "2.opus"), "aid": "gone", "segments": segments[:1]}
    out = {**one, "path": "../1.opus", "segments": segments[:1]}
    (folder / "GigaSpeech.json").write_text(
        json.dumps({"dataset": "GigaSpeech", "version": "v1.0.0", "audios": [one, gone, out]})
    )
    sound(folder / path, 2.0, format="OGG", subtype="OPUS")


def test_gigaspeech(tmp_path: Path) -> None:
    giga_index(tmp_path)
    clips = tmp_path / "xs"
    done = prepare(gigaspeech.offer(tmp_path, ["XS"]), tmp_path / "xs.json", clips)
    assert entries(done) == [
        {
            "path": "xs/POD0000000001/POD0000000001_S0000000.flac",
            "text": "As they're leaving can kash help",
            "task": "asr",
            "source": "GigaSpeech",
        }
    ]
    with soundfile.SoundFile(tmp_path / entries(done)[0]["path"]) as file:
        assert (file.frames, file.samplerate, file.channels) == (8_000, 16_000, 1)
        cut = file.read()
    whole, _ = soundfile.read(tmp_path / "audio/podcast/P0000/POD0000000001.opus")
    assert np.abs(cut - whole[4_000:12_000]).max() < 0.02  # a seek in Opus starts its predictor anew
    assert (done.made, done.left_out) == (1, 7)
    assert sorted(line.partition(":")[0] for line in done.reasons) == [
        "1 x does not end after its beginning",
        "1 x ends 0.25 s before the piece does",
        "1 x its recording's path leaves its folder through '..'",
        "1 x missing",
        "1 x no speech (<MUSIC>)",
        "1 x no words",
        "1 x unknown tag <CHEER>",
    ]
    again = prepare(gigaspeech.offer(tmp_path, ["XS", "TEST"]), tmp_path / "xs.json", clips)
    assert (again.made, again.kept) == (2, 1)
    assert entries(again)[1]["testset_id"] == "POD0000000001_S0000007"
    with pytest.raises(DataError, match="choose with --split"):
        prepare(gigaspeech.offer(tmp_path), tmp_path / "xs.json", clips)


def test_audiocaps(tmp_path: Path) -> None:
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    rows(
        tmp_path / "dataset/train.csv",
        header,
        (91139, "r1nicOVtvkQ", 130, "A woman talks nearby as water pours"),
        (58146, "UDGBjjwyaqE", 20, "Multiple clanging, and clanking sounds"),
        (103341, "3XuyGJqaXv8", 10, "Gone from the net"),
        (1, "-aYumc-KoXg", 3, " "),
    )
    rows(
        tmp_path / "dataset/test.csv",
        header,
        (2, "vfY_TJq7n_U", 130, "Rustling occurs"),
        (3, "vfY_TJq7n_U", 130, "Ducks quack"),
        (4, "vfY_TJq7n_U", 130, "Ducks quack"),
        (5, "tdWhHV3X25Q", 60, "A crowd claps"),
    )
    sound(tmp_path / "train/r1nicOVtvkQ_130.wav")
    sound(tmp_path / "train/YUDGBjjwyaqE.wav")
    sound(tmp_path / "train/vfY_TJq7n_U_130_140.flac")
    sound(tmp_path / "test/vfY_TJq7n_U_130_140.flac")
    sound(tmp_path / "test/5.wav")
    done = prepare(audiocaps.offer(tmp_path, ["train"]), tmp_path / "a.json", tmp_path)
    assert [(entry["path"], entry["text"], entry["task"]) for entry in entries(done)] == [
        ("train/r1nicOVtvkQ_130.wav", "A woman talks nearby as water pours", "audiocaption"),
        ("train/YUDGBjjwyaqE.wav", "Multiple clanging, and clanking sounds", "audiocaption"),
    ]
    assert left_out(done) == {"1": "empty caption", "3XuyGJqaXv8_10.flac": "missing"}
    done = prepare(audiocaps.offer(tmp_path, ["test"]), tmp_path / "b.json", tmp_path)
    assert entries(done) == [
        {
            "path": "test/vfY_TJq7n_U_130_140.flac",
            "text": "Rustling occurs",
            "texts": ["Rustling occurs", "Ducks quack"],
            "task": "audiocaption",
            "testset_id": "vfY_TJq7n_U_130",
            "source": "AudioCaps",
        },
        {
            "path": "test/5.wav",
            "text": "A crowd claps",
            "task": "audiocaption",
            "testset_id": "tdWhHV3X25Q_60",
            "source": "AudioCaps",
        },
    ]
    assert not left_out_path(done.annotation).exists()


def test_clotho(tmp_path: Path) -> None:
    header = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    captions = ("A bell rings", "Bells ring", "Someone rings a bell", "A bell", "")
    for split in ("development", "evaluation"):
        rows(
            tmp_path / f"clotho_captions_{split}.csv",
            header,
            ("Santa's bell.wav", *captions),
            ("gone.wav", "a", "b", "c", "d", "e"),
        )
        sound(tmp_path / split / "Santa's bell.wav", rate=44_100)
    done = prepare(clotho.offer(tmp_path, ["development"]), tmp_path / "dev.json", tmp_path)
    assert [(entry["path"], entry["text"]) for entry in entries(done)] == [
        ("development/Santa's bell.wav", caption) for caption in captions[:4]
    ]
    assert (done.left_out, left_out(done)) == (
        6,
        {"Santa's bell.wav": "empty caption", "gone.flac": "missing"},
    )
    done = prepare(clotho.offer(tmp_path, ["evaluation"]), tmp_path / "test.json", tmp_path)
    (entry,) = entries(done)
    assert (entry["path"], entry["testset_id"]) == ("evaluation/Santa's bell.wav", "Santa's bell")
    assert entry["texts"] == list(captions[:4])


def test_names_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    header = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    rows(tmp_path / "clotho_captions_evaluation.csv", header, ("M\u00fcll.wav", *"abcde"))
    sound(tmp_path / "evaluation" / "Mu\u0308ll.wav")
    (entry,) = entries(prepare(clotho.offer(tmp_path), tmp_path / "a.json", tmp_path))
    assert entry["path"] == "evaluation/Mu\u0308ll.wav"


def test_wavcaps(tmp_path: Path) -> None:
    index = tmp_path / "json_files"
    sounds: dict[str, list[dict[str, Any]]] = {
        "AudioSet_SL/as_final.json": [
            {"id": "Yb0RFKhbpFJA.wav", "caption": "Wind and a man speaking are heard.", "duration": 10.0},
            {"id": "YvfY_TJq7n_U.wav", "caption": "In AudioCaps' test set.", "duration": 10.0},
        ],
        "SoundBible/sb_final.json": [
            {"title": "Bell", "id": "2219", "caption": "An airplane is landing.", "duration": 14.1},
            {"title": "Gone", "id": "2218", "caption": "Someone is ringing a bell.", "duration": 1.5},
            {"title": "Out", "id": "../2217", "caption": "It is raining.", "duration": 1.5},
        ],
    }
    for name, data in sounds.items():
        (index / name).parent.mkdir(parents=True)
        (index / name).write_text(json.dumps({"num_captions_per_audio": 1, "data": data}))
    sound(tmp_path / "mnt/WavCaps/data/waveforms/AudioSet_SL_flac/Yb0RFKhbpFJA.flac")
    sound(tmp_path / "mnt/WavCaps/data/waveforms/AudioSet_SL_flac/YvfY_TJq7n_U.flac")
    sound(tmp_path / "SoundBible_flac/2219.flac")
    with pytest.raises(
        DataError, match=r"blacklist_exclude_test_ac.json: cannot be read(.|\n)*--exclude none"
    ):
        prepare(wavcaps.offer(tmp_path), tmp_path / "a.json", tmp_path)
    (index / "blacklist").mkdir()
    blacklist = {"AudioSet": ["YvfY_TJq7n_U"], "FreeSound": ["17"]}  # with or without a suffix
    (index / "blacklist/blacklist_exclude_test_ac.json").write_text(json.dumps(blacklist))
    done = prepare(wavcaps.offer(tmp_path), tmp_path / "a.json", tmp_path)
    assert entries(done) == [
        {
            "path": "mnt/WavCaps/data/waveforms/AudioSet_SL_flac/Yb0RFKhbpFJA.flac",
            "text": "Wind and a man speaking are heard.",
            "task": "audiocaption",
            "source": "WavCaps AudioSet_SL",
            "duration": 10.0,
        },
        {
            "path": "SoundBible_flac/2219.flac",
            "text": "An airplane is landing.",
            "task": "audiocaption",
            "source": "WavCaps SoundBible",
            "duration": 14.1,
        },
    ]
    assert left_out(done) == {
        "YvfY_TJq7n_U.wav": "in the blacklist test_ac",
        "2218.flac": "missing",
        "2217": "its id is no file name",
    }
    assert prepare(wavcaps.offer(tmp_path, exclude=""), tmp_path / "a.json", tmp_path).entries == 3


def test_musicnet(tmp_path: Path) -> None:
    root = tmp_path / "musicnet"
    rows(
        tmp_path / "musicnet_metadata.csv",
        ("id", "composer", "composition", "movement", "ensemble", "seconds"),
        (1727, "Schubert", "Piano Quintet in A major", "2. Andante", "Piano Quintet", 61),
        (2303, "Bach", "Fugue", "1", "", 2),
    )
    sound(root / "train_data/1727.wav", 30.5 * 2, rate=4_000)
    sound(root / "test_data/2303.wav", 2.0, rate=4_000)
    rows(
        root / "train_labels/1727.csv",
        ("start_time", "end_time", "instrument", "note", "start_beat", "end_beat", "note_value"),
        (9_182, 90_078, 43, 53, 4.0, 1.5, "Dotted Quarter"),
        (9_182, 1_333_078, 41, 65, 4.0, 1.5, "Dotted Quarter"),
        (9_182, 33_078, 1, 69, 4.0, 0.5, "Eighth"),
    )
    done = prepare(musicnet.offer(tmp_path, ["train"]), tmp_path / "a.json", tmp_path / "a")
    found = entries(done)
    assert found[0] == {
        "path": "a/1727/0000.flac",
        "text": "piano, violin and cello",
        "task": "QA",
        "Q": "Which instruments are played in this music?",
        "source": "MusicNet",
    }
    assert [(entry["path"], entry["text"]) for entry in found[1:]] == [
        ("a/1727/0000.flac", "Piano Quintet"),
        ("a/1727/0000.flac", "Schubert"),
        ("a/1727/0030.flac", "violin"),
        ("a/1727/0030.flac", "Piano Quintet"),
        ("a/1727/0030.flac", "Schubert"),
        ("a/1727/0060.flac", "Piano Quintet"),
        ("a/1727/0060.flac", "Schubert"),
    ]
    assert left_out(done) == {"0060": "no note in it: not asked for instruments"}
    assert [soundfile.info(tmp_path / f"a/1727/00{at}0.flac").frames for at in "036"] == [
        480_000,
        480_000,
        16_000,
    ]
    done = prepare(musicnet.offer(tmp_path, ["test"]), tmp_path / "b.json", tmp_path / "b", workers=2)
    assert [(entry["text"], entry["testset_id"]) for entry in entries(done)] == [
        ("Bach", "2303/0000/composer")
    ]
    assert left_out(done) == {"2303.wav": "no labels of its notes"}


def test_an_identity_is_given_once(tmp_path: Path) -> None:
    header = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    for split in ("validation", "evaluation"):
        rows(tmp_path / f"clotho_captions_{split}.csv", header, ("1.wav", "a", "b", "c", "d", "e"))
        sound(tmp_path / split / "1.wav")
    done = prepare(clotho.offer(tmp_path, ["validation", "evaluation"]), tmp_path / "a.json", tmp_path)
    assert (len(entries(done)), left_out(done)) == (1, {"1.wav": "its testset_id is already used"})


def test_a_name_is_given_once(tmp_path: Path) -> None:
    names = {"a.wav": "same/1", "b.wav": "same/1", "c.wav": ".partial/2", "d.wav": "\ud800/3"}
    for name in names:
        sound(tmp_path / name)
    offered = [Clip(tmp_path / name, ("x",), "asr", piece=Piece(piece)) for name, piece in names.items()]
    done = prepare(offered, tmp_path / "out.json", tmp_path / "out")
    assert len(entries(done)) == 1
    assert left_out(done) == {
        f"{number}.flac": "its name is taken, or none for a file" for number in (1, 2, 3)
    }


@pytest.mark.parametrize(
    "corpus", [librispeech, gigaspeech, audiocaps, clotho, wavcaps, musicnet], ids=lambda one: one.__name__
)
def test_another_folder_is_told(corpus: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing of \w+ is in this folder"):
        prepare(corpus.offer(tmp_path), tmp_path / "a.json", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,start\n1,2\n", "expected a column 'audiocap_id'"),
        ("audiocap_id,youtube_id,start_time,caption\n1,2\n", "line 2 has not as many values as the header"),
        ("audiocap_id,youtube_id,start_time,caption\n1,2,3,\xff\n", "not a CSV file in UTF-8"),
    ],
)
def test_a_wrong_table_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        prepare(audiocaps.offer(tmp_path), tmp_path / "a.json", tmp_path)


def test_nothing_to_use_is_an_error(tmp_path: Path) -> None:
    rows(tmp_path / "train.csv", ("audiocap_id", "youtube_id", "start_time", "caption"), (1, "x", 2, "A"))
    with pytest.raises(DataError, match=r"nothing in it can be used:\n  1 x missing"):
        prepare(audiocaps.offer(tmp_path), tmp_path / "a.json", tmp_path)
    assert not (tmp_path / "a.json").exists()
    assert left_out_path(tmp_path / "a.json").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    giga_index(tmp_path)
    out = tmp_path / "giga.json"
    arguments = ["gigaspeech", str(tmp_path), "--split", "XS", "--out", str(out), "--workers", "1"]
    assert _run(["data", "prepare", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"1 entries in {out}, 1 clips written; 7 left out\n"
    assert "left out: 1 x no speech (<MUSIC>): POD0000000001_S0000001\n" in captured.err
    assert (tmp_path / "giga/POD0000000001").is_dir()
