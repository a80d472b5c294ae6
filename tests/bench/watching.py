"""Looks at what a running task takes of memory and of the disk, as Linux tells it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KIB = 1024

BLOCK_BYTES = 512
"""What file systems count their blocks in."""


@dataclass
class Watch:
    """The peaks of what a task takes, as far as looks at it see them.

    :param folder: all that the task writes to.
    :param process: the task.
    """

    folder: Path
    process: int
    disk: int = 0
    """Bytes of files, those included that are removed but still open."""
    child_memory: int = 0
    """Bytes present of the largest process that the task started."""

    def look(self) -> None:
        """Look once."""
        self.disk = max(self.disk, disk_use(self.folder) + deleted_but_open(self.process))
        for child in _descendants(self.process):
            # it may have ended meanwhile, or not yet begun its own program, and then its memory is that of the task
            with suppress(OSError, ValueError):
                if _program(child) != _program(self.process):
                    self.child_memory = max(self.child_memory, memory_of(child, "VmHWM"))


def memory_of(process: int | str, name: str) -> int:
    """Give how many bytes of a process are present.

    :param process: its number, or `self`.
    :param name: `VmRSS` for now, `VmHWM` for the peak.
    """
    status = Path(f"/proc/{process}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * KIB


def written_by(process: int | str) -> int:
    """Give the bytes that a process, and children of it that have ended, had written to the disk."""
    lines = Path(f"/proc/{process}/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))


def _program(process: int) -> Path:
    return Path(f"/proc/{process}/exe").readlink()


def _descendants(process: int) -> Iterator[int]:
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def disk_use(folder: Path) -> int:
    """Give how many bytes of the disk the files below a folder take, each file once."""
    blocks: dict[int, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                status = Path(parent, name).lstat()
                blocks[status.st_ino] = status.st_blocks
    return sum(blocks.values()) * BLOCK_BYTES


def deleted_but_open(process: int) -> int:
    """Give how many bytes of the disk the files take that a process has removed but still holds open."""
    blocks: dict[int, int] = {}
    with suppress(OSError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                status = descriptor.stat()
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    blocks[status.st_ino] = status.st_blocks
    return sum(blocks.values()) * BLOCK_BYTES
