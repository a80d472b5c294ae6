"""What the system tests wait for, and which processes they look for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

# Far beyond what anything here takes: it only turns a hang into a failure.
DEADLINE_SECONDS = 300.0


def wait_until(condition: Callable[[], object], expected: str) -> None:
    """Wait until a condition holds; fail, saying what was expected, if it never does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never seen within {DEADLINE_SECONDS:g} s: {expected}"
        time.sleep(0.1)


def living(folder: Path, marker: str) -> set[int]:
    """List the processes that inherited a variable, or that are somewhere below a folder.

    Some overwrite their environment with a title, but stay in the folder; others go elsewhere, but keep it.

    :param marker: the variable, as `NAME=value`.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            below = (process / "cwd").readlink().is_relative_to(folder)
            if below or marker.encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
        except OSError:
            continue  # It has just ended, or is somebody else's.
    return found
