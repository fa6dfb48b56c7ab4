"""The machine, in the words that a reader of the results needs."""

from __future__ import annotations

import os
import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["describe", "free_memory", "free_space"]

_PACKAGES = ("ckmigrate", "torch", "safetensors", "numpy", "lightning")


def describe(folder: Path) -> dict[str, str]:
    """Date, cores, memory, file system of `folder`, versions, and how busy the machine is."""
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{_memory('MemTotal') / 1e9:.0f} GB, {free_memory() / 1e9:.0f} GB free",
        "file system": f"{_file_system(folder)}, {free_space(folder) / 1e9:.0f} GB free",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "load before": f"{loads} (1, 5, 15 minutes)",
    }


def free_space(folder: Path) -> int:
    """Bytes."""
    return shutil.disk_usage(folder).free


def free_memory() -> int:
    """Bytes that a process could have without swapping."""
    return _memory("MemAvailable")


def _memory(key: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {key}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the mount that the folder is on: the longest mount point above it."""
    where, found = folder.resolve(), ("", "unknown")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind = line.split()[:3]
        if where.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
