"""Fixtures of the engine's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Give an empty folder of a file system in memory, where to sync a thousand times takes no time."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)
