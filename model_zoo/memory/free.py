"""How much memory is free right now, on a GPU or in RAM (container limits respected). Imports torch only for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


class Room(NamedTuple):
    """Free bytes and where they are; None where the system does not say."""

    free: int | None
    where: str


def free_room(device: str) -> Room:
    """Free memory of `cuda`, `cuda:1` or `cpu`."""
    if not str(device).startswith("cuda"):
        return free_ram()
    import torch

    index = torch.device(device).index or 0
    return Room(torch.cuda.mem_get_info(index)[0], f"on {torch.cuda.get_device_name(index)}")


def free_ram() -> Room:
    """The smaller of what the kernel calls available and what the container's limit leaves."""
    available, left = _available(), _cgroup_left()
    if left is not None and (available is None or left < available):
        return Room(left, "within the container's memory limit")
    return Room(available, "of RAM")


def _read(path: Path) -> str:
    """What a file of the kernel says; nothing where there is no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _available() -> int | None:
    lines = _read(PROC / "meminfo").splitlines()
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _cgroup_left() -> int | None:
    """The tightest limit minus use, from this process's group up to the root; version 2 and version 1 of cgroups."""
    left = []
    for folder, limit, used in _groups():
        most, now, stat = _number(folder / limit), _number(folder / used), _reclaimable(folder)
        if most is not None and now is not None and most < 2**60:  # version 1 writes a huge number for "no limit"
            left.append(max(0, most - now + min(stat, now)))
    return min(left, default=None)


def _groups() -> list[tuple[Path, str, str]]:
    lines = [line.split(":", 2) for line in _read(PROC / "self" / "cgroup").splitlines()]
    found = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUP / "memory" if controllers else CGROUP
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        own = root / path.strip("/")
        found += [(folder, *names) for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return found


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _reclaimable(folder: Path) -> int:
    """Page cache that counts as used but is given back on demand (reading weights fills it)."""
    lines = [line.split() for line in _read(folder / "memory.stat").splitlines()]
    return sum(int(number) for name, number in lines if name in ("inactive_file", "total_inactive_file"))
