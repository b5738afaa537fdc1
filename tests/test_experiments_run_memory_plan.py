"""Memory before loading: the plan is printed, what cannot fit is refused with numbers and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.golden import golden_root

import experiments.run.memory_plan as plan
import model_zoo.memory.free as room
from experiments.recipes import load_experiment
from experiments.run.build import RunParts
from experiments.run.memory_plan import NotEnoughMemoryError, check_memory, memory_plan, planned_sizes, print_plan
from model_zoo.memory.free import Room, free_ram
from model_zoo.memory.sizes import PUBLISHED_SIZES

GIB = 2**30


def config(**words: object):
    pairs = {"exp": "cifar10_minigpt4", "source.weights": "nowhere", "train.accelerator": "cpu"} | words
    return load_experiment([(key, str(value)) for key, value in pairs.items()])


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets the free memory of this machine, in GiB."""

    def set_free(gibibytes: float | None) -> None:
        found = Room(None if gibibytes is None else int(gibibytes * GIB), "of RAM")
        for module in (room, plan):  # `free_room` asks its own
            monkeypatch.setattr(module, "free_ram", lambda: found)

    return set_free


def test_a_run_that_fits_prints_its_plan(free, capsys) -> None:
    free(100)
    check_memory(RunParts(config()))
    shown = capsys.readouterr().out
    assert "source   minigpt4:" in shown and "kept for the gradient of 16 images" in shown and "peak " in shown


def test_a_run_that_cannot_fit_is_refused_with_numbers_and_what_would(free) -> None:
    free(20)
    with pytest.raises(NotEnoughMemoryError) as caught:
        check_memory(RunParts(config()))
    message = str(caught.value)
    needed = memory_plan(RunParts(config())).device
    assert f"needs {needed / GIB:.1f} GiB, but 20.0 GiB are free of RAM" in message
    assert "It would fit with train.checkpointing=true (" in message and "train.memory_check=warn" in message


def test_the_ways_out_are_tried_one_on_top_of_the_other(free) -> None:
    free(17)
    with pytest.raises(NotEnoughMemoryError, match=r"fit with train\.checkpointing=true .*, then train\.batch_size=1"):
        check_memory(RunParts(config()))


def test_what_nothing_helps_is_said_so(free) -> None:
    free(1)
    with pytest.raises(NotEnoughMemoryError, match=r"would not fit: use a larger device or a smaller model"):
        check_memory(RunParts(config()))


def test_float32_is_offered_bfloat16(free) -> None:
    free(18)
    with pytest.raises(NotEnoughMemoryError, match=r"source\.dtype=bfloat16 targets\.dtype=bfloat16"):
        check_memory(RunParts(config(**{"source.dtype": "float32"})))


def test_the_refusal_can_be_turned_into_a_warning_or_off(free, capsys) -> None:
    free(1)
    check_memory(RunParts(config(**{"train.memory_check": "warn"})))
    assert "WARNING: This run needs" in capsys.readouterr().out
    check_memory(RunParts(config()), resumed=True)  # its configuration cannot be changed any more
    assert "WARNING: This run needs" in capsys.readouterr().out
    check_memory(RunParts(config(**{"train.memory_check": "off"})))
    assert capsys.readouterr().out == ""


def test_a_system_that_does_not_say_refuses_nothing(free) -> None:
    free(None)
    check_memory(RunParts(config()))


def test_models_that_ship_with_the_package_are_not_planned(free, capsys) -> None:
    free(0)
    check_memory(RunParts(load_experiment([("exp", "smoke")])))
    assert capsys.readouterr().out == ""


def test_a_dry_run_says_what_does_not_fit(free, capsys) -> None:
    free(1)
    assert print_plan(config()) == 0
    assert "DOES NOT FIT: This run needs" in capsys.readouterr().out


def peak(**words: object) -> int:
    return memory_plan(RunParts(config(**words))).device


def test_every_remedy_lowers_the_plan() -> None:
    targets = {"targets.select": "[instructblip,blip2]"}  # which share no LLM with the source
    assert peak(**{"train.checkpointing": "true"}) < peak()
    assert peak(**{"train.batch_size": 1, "train.accumulate": 16}) < peak()
    assert peak(**targets, **{"targets.residency": "sequential"}) < peak(**targets, **{"targets.residency": "keep"})
    assert peak(**targets, **{"targets.quant": "8bit"}) < peak(**targets)
    assert peak(**{"source.quant": "4bit"}) < peak(**{"source.quant": "8bit"}) < peak()
    assert peak(**{"method": "none"}) < peak()


def test_a_gpu_run_also_needs_host_memory_while_loading(free, monkeypatch) -> None:
    free(10)
    monkeypatch.setattr(plan, "device_of", lambda config: "cuda")
    monkeypatch.setattr(plan, "free_room", lambda device: Room(80 * GIB, "on a card"))
    with pytest.raises(NotEnoughMemoryError, match=r"passes \d+\.\d GiB through RAM, but 10\.0 GiB are free of RAM"):
        check_memory(RunParts(config()))


def test_a_gpu_that_is_too_small_is_named(free, monkeypatch) -> None:
    free(200)
    monkeypatch.setattr(plan, "device_of", lambda config: "cuda")
    monkeypatch.setattr(plan, "free_room", lambda device: Room(12 * GIB, "on a card"))
    with pytest.raises(NotEnoughMemoryError, match=r"12\.0 GiB are free on a card\. It would fit .*source\.quant=8bit"):
        check_memory(RunParts(config()))


def test_sizes_come_from_the_files_where_they_are() -> None:
    planned_sizes.cache_clear()
    weights = golden_root() / "minigpt4" / "weights"
    found = planned_sizes("minigpt4", str(weights))
    assert found.vision.width < PUBLISHED_SIZES["minigpt4"].vision.width
    assert planned_sizes("minigpt4", "nowhere") == PUBLISHED_SIZES["minigpt4"]


# ---- how much is free -----------------------------------------------------------------------------------------------
@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for /proc and /sys/fs/cgroup: 8 GiB available, no limit."""
    monkeypatch.setattr(room, "PROC", tmp_path / "proc")
    monkeypatch.setattr(room, "CGROUP", tmp_path / "cgroup")
    write(tmp_path / "proc" / "meminfo", f"MemTotal: 9 kB\nMemAvailable: {8 * 2**20} kB\n")
    write(tmp_path / "proc" / "self" / "cgroup", "0::/user/job\n")
    return tmp_path


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_without_a_limit_the_kernel_s_figure_counts(system: Path) -> None:
    assert free_ram() == Room(8 * GIB, "of RAM")


def test_the_limit_of_any_group_above_counts_and_cache_is_given_back(system: Path) -> None:
    write(system / "cgroup/user/memory.max", 4 * GIB)
    write(system / "cgroup/user/memory.current", 3 * GIB)
    write(system / "cgroup/user/memory.stat", f"anon 5\ninactive_file {GIB}")
    write(system / "cgroup/user/job/memory.max", "max")
    write(system / "cgroup/user/job/memory.current", GIB)
    assert free_ram() == Room(2 * GIB, "within the container's memory limit")


def test_the_first_version_of_groups_is_read_too(system: Path) -> None:
    write(system / "proc/self/cgroup", "5:cpu:/a\n4:memory:/box")
    write(system / "cgroup/memory/box/memory.limit_in_bytes", 3 * GIB)
    write(system / "cgroup/memory/box/memory.usage_in_bytes", GIB)
    write(system / "cgroup/memory/memory.limit_in_bytes", 2**63 - 4096)
    write(system / "cgroup/memory/memory.usage_in_bytes", 5 * GIB)
    assert free_ram().free == 2 * GIB


def test_a_system_without_proc_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PROC", tmp_path / "none")
    assert free_ram().free is None
