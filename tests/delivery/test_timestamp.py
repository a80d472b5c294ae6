"""The timestamp file: its whole second always moves forward."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airflow_serving_reload.delivery import timestamp
from airflow_serving_reload.delivery.errors import PublicationFailed

SECOND_NS = 1_000_000_000


def _second(file: Path) -> int:
    return file.stat().st_mtime_ns // SECOND_NS


def test_touching_what_is_not_there(tmp_path: Path) -> None:
    """A first touch makes the file, with the present time and the second of it as text."""
    file = tmp_path / "fluid_time_file"
    assert timestamp.read(file) is None
    before = time.time_ns()
    mtime_ns = timestamp.touch(file)
    assert before <= mtime_ns <= time.time_ns()
    assert timestamp.read(file) == mtime_ns
    assert file.read_text() == f"{mtime_ns // SECOND_NS}\n"


def test_touching_twice_at_once(tmp_path: Path) -> None:
    """Of two touches without a pause in between the second one moves on by a whole second, and not into the future."""
    file = tmp_path / "fluid_time_file"
    first = timestamp.touch(file)
    second = timestamp.touch(file)
    assert second // SECOND_NS > first // SECOND_NS
    assert second <= time.time_ns()
    assert _second(file) == second // SECOND_NS
    assert file.read_text() == f"{_second(file)}\n"


def test_touching_an_old_file(tmp_path: Path) -> None:
    """An old time moves on to the present one."""
    file = tmp_path / "fluid_time_file"
    file.touch()
    os.utime(file, ns=(5, 5))
    before = time.time_ns()
    assert before <= timestamp.touch(file) <= time.time_ns()


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """A time an hour ahead of the clock moves on all the same, second by second, without waiting for the clock."""
    file = tmp_path / "fluid_time_file"
    file.touch()
    ahead = time.time_ns() // SECOND_NS + 3600
    os.utime(file, (ahead + 0.75, ahead + 0.75))
    assert [timestamp.touch(file) // SECOND_NS for _ in range(3)] == [ahead + 1, ahead + 2, ahead + 3]
    assert (_second(file), file.read_text()) == (ahead + 3, f"{ahead + 3}\n")


@pytest.mark.parametrize("part_ns", [0, 1, SECOND_NS - 1])
def test_any_part_of_a_second(part_ns: int) -> None:
    """The next time lies in a later second, whatever part of its second the old one had."""
    old_ns = (time.time_ns() // SECOND_NS - 1) * SECOND_NS + part_ns
    assert timestamp.next_after(old_ns) // SECOND_NS > old_ns // SECOND_NS


def test_it_is_replaced_and_not_written(tmp_path: Path) -> None:
    """A touch makes another file, so that no reader sees a half-written one or one without its time."""
    file = tmp_path / "fluid_time_file"
    timestamp.write(file, 5 * SECOND_NS)
    with file.open() as old:
        timestamp.write(file, 7 * SECOND_NS + 1)
        assert (os.fstat(old.fileno()).st_mtime_ns, old.read()) == (5 * SECOND_NS, "5\n")
    assert (file.stat().st_mtime_ns, file.read_text()) == (7 * SECOND_NS + 1, "7\n")
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_does_not_take_it(tmp_path: Path) -> None:
    """A touch that the host does not let happen says that the server was not asked."""
    (tmp_path / "file").touch()
    with pytest.raises(PublicationFailed, match=r"touching .*: Not a directory; the server was not asked to reload"):
        timestamp.write(tmp_path / "file" / "fluid_time_file", SECOND_NS)
