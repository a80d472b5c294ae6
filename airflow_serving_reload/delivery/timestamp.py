"""The timestamp file, by whose modification time a Paddle Serving server notices that it must reload.

The server compares whole seconds with "not equal", so each new time is in a later second than the one before it.
The file holds the same second as text, for people.
"""

from __future__ import annotations

import time
from pathlib import Path

from airflow_serving_reload.delivery.errors import PublicationFailed
from airflow_serving_reload.delivery.filesystem import replace_file

SECOND_NS = 1_000_000_000

LONGEST_WAIT_NS = 2 * SECOND_NS
"""How far ahead of the clock the old time may be for the new one to be waited for; beyond, the clock was set back."""


def read(file: Path) -> int | None:
    """Give the file's modification time in nanoseconds since the epoch; None if it is absent."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def next_after(old_ns: int | None) -> int:
    """Give a time in a later whole second than the old one: now, as soon as that is so.

    It is waited for, at most two seconds, so that what happens after the touch is also later than its time.

    :param old_ns: nanoseconds since the epoch; None if there is no time yet.
    :return: nanoseconds since the epoch.
    """
    now_ns = time.time_ns()
    if old_ns is None:
        return now_ns
    earliest_ns = (old_ns // SECOND_NS + 1) * SECOND_NS
    if now_ns >= earliest_ns:
        return now_ns
    if earliest_ns - now_ns > LONGEST_WAIT_NS:
        return earliest_ns
    time.sleep((earliest_ns - now_ns) / SECOND_NS)
    return max(time.time_ns(), earliest_ns)


def write(file: Path, mtime_ns: int) -> None:
    """Make or replace the file, with this modification time from its first instant on.

    :raises PublicationFailed: the host did not let it.
    """
    try:
        replace_file(file, f"{mtime_ns // SECOND_NS}\n", mtime_ns=mtime_ns)
    except OSError as error:
        raise PublicationFailed(
            f"touching {file}: {error.strerror}; the server was not asked to reload; check the folder's permissions"
        ) from error


def touch(file: Path) -> int:
    """Move the file's modification time forward, so that the server reloads.

    :return: the new time in nanoseconds since the epoch.
    :raises PublicationFailed: the host did not let it.
    """
    mtime_ns = next_after(read(file))
    write(file, mtime_ns)
    return mtime_ns
