"""What is read of the machine: energy, disturbances, hashes, environment. Files stand for /sys."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from audiolm_compress.data.example import Example
from audiolm_compress.measurement import disturbance
from audiolm_compress.measurement.data_hashes import data_hashes
from audiolm_compress.measurement.disturbance import Watch, unsteady
from audiolm_compress.measurement.energy import EnergyMeter
from audiolm_compress.measurement.environment import describe_environment

CPU = torch.device("cpu")


def zone(folder: Path, name: str, microjoules: int, largest: int = 999) -> Path:
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    return folder / "energy_uj"


def test_energy_of_packages_and_memory_across_the_end_of_a_counter(tmp_path: Path) -> None:
    package = zone(tmp_path / "intel-rapl:0", "package-0", 900)
    zone(tmp_path / "intel-rapl:0:0", "core", 100)
    memory = zone(tmp_path / "intel-rapl:0:1", "dram", 10)
    zone(tmp_path / "intel-rapl:1", "psys", 0)
    meter = EnergyMeter(CPU, tmp_path)
    assert meter.note.startswith("energy: of the processor (package-0, dram;")
    with meter.measuring() as spent:
        package.write_text("50\n")  # from 900 over 999 to 0 and on
        memory.write_text("17\n")
        (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("150\n")
    assert spent.joules == pytest.approx((150 + 7) / 1e6)


def test_without_a_counter_there_is_no_energy_and_a_reason(tmp_path: Path) -> None:
    meter = EnergyMeter(CPU, tmp_path)
    with meter.measuring() as spent:
        pass
    assert spent.joules is None
    assert meter.note.startswith("no energy: this machine shows no counter")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    file = zone(tmp_path / "intel-rapl:0", "package-0", 1)
    file.chmod(0)
    assert str(file) in EnergyMeter(CPU, tmp_path).note


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/stat")
def test_another_process_at_work_is_noticed() -> None:
    """Not as a time: that it takes more than a tenth of the machine, if it may have a core."""
    watch = Watch()
    other = [sys.executable, "-c", "while True: pass"]
    several = [subprocess.Popen(other) for _ in range(max(1, (os.cpu_count() or 1) // 4))]
    try:
        with watch.watching():
            time.sleep(1.5)
    finally:
        for process in several:
            process.kill()
            process.wait()
    assert any(note.startswith("the machine was busy") for note in watch.notes())


def test_heat_and_falling_clocks_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disturbance, "_CPUS", tmp_path)
    monkeypatch.setattr(disturbance, "_STAT", tmp_path / "none")
    for core, clock in enumerate((3_000_000, 800_000)):
        (tmp_path / f"cpu{core}" / "thermal_throttle").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "cpufreq").mkdir()
        (tmp_path / f"cpu{core}" / "thermal_throttle" / "core_throttle_count").write_text("5\n")
        (tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").write_text(f"{clock}\n")
    watch = Watch()
    with watch.watching():
        pass
    assert watch.notes() == []
    with watch.watching():
        (tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count").write_text("7\n")
        (tmp_path / "cpu0" / "cpufreq" / "scaling_cur_freq").write_text("2000000\n")
    hot, slow = watch.notes()
    assert "throttled 2 times" in hot
    assert "between 2.0 and 3.0 GHz" in slow


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        ([[1.0] * 5, [1.05] * 5], []),
        ([[1.0] * 5, [1.2] * 5], ["drifted"]),
        ([[1.0, 1.0, 1.0, 2.0, 2.0]] * 2, ["unsteady"]),
        ([[1.0, 1.0, 1.0, 9.0]] * 2, []),  # too few to say
    ],
)
def test_runs_that_all_do_the_same(rounds: list[list[float]], words: list[str]) -> None:
    notes = unsteady(rounds)
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


def test_hashes_are_of_content_alone(tmp_path: Path) -> None:
    for name, content in (("b.wav", b"two"), ("a.wav", b"one"), ("test.json", b"{}")):
        (tmp_path / name).write_bytes(content)

    def hashed(*names: str) -> dict[str, object]:
        examples = [Example(name, torch.zeros(1), "asr", "x", path=tmp_path / name) for name in names]
        return data_hashes([tmp_path / "test.json"], examples)

    found = hashed("b.wav", "a.wav")
    assert found["annotations"] == [{"file": "test.json", "sha256": hashlib.sha256(b"{}").hexdigest()}]
    lines = sorted(hashlib.sha256(content).hexdigest() + "\n" for content in (b"one", b"two"))
    assert found["audio_sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert found["audio_files"] == 2
    assert hashed("a.wav", "b.wav", "a.wav") == found
    (tmp_path / "a.wav").write_bytes(b"One")
    assert hashed("b.wav", "a.wav")["audio_sha256"] != found["audio_sha256"]


def test_the_environment_names_what_kernels_depend_on() -> None:
    found = describe_environment("cpu", 3)
    assert found["threads"] == torch.get_num_threads()
    assert found["interop_threads"] == torch.get_num_interop_threads()
    assert found["memory_bytes"] > 2**28
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert "avx2" in found["processor_flags"]
    assert found["seed"] == 3
