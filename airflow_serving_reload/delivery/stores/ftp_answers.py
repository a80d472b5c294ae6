"""What FTP servers tell of files: their answers to SIZE and MDTM, and the lines of their listings."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from airflow_serving_reload.delivery.stores.base import SECOND_NS, TICK_NS, FileFacts

MINUTE_NS = 60 * SECOND_NS
QUARTER_HOUR_NS = 15 * MINUTE_NS
DAY_NS = 24 * 60 * MINUTE_NS


class UnknownForm(Exception):
    """A line of a listing cannot be read."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a listing.

    :param is_folder: None if it may be a link to either.
    """

    name: str
    is_folder: bool | None
    facts: FileFacts


def without_dots(listed: Iterable[Listed]) -> list[Listed]:
    """Leave out the folder itself and the one above."""
    return [entry for entry in listed if entry.name not in (".", "..")]


def size_of(reply: str | None) -> int | None:
    """Read an answer to SIZE; None if it is none."""
    told = re.fullmatch(r"213 +(\d+)\s*", reply or "", re.ASCII)
    return int(told[1]) if told else None


def time_of(reply: str | None) -> tuple[int, int] | None:
    """Read an answer to MDTM: nanoseconds since the epoch, and the step in which the server counts them; or None."""
    return _moment(reply[4:]) if reply and reply.startswith("213 ") else None


def _moment(told: str) -> tuple[int, int] | None:
    parts = re.fullmatch(r"(\d{14})(?:\.(\d{1,9})\d*)?", told.strip(), re.ASCII)
    if parts is None:
        return None
    try:
        moment = datetime.strptime(parts[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    digits = parts[2] or ""
    fraction = int(digits.ljust(9, "0"))
    # a fraction of nothing but zeros may well be all that the server ever tells
    resolution_ns = max(10 ** (9 - len(digits)), TICK_NS) if fraction else SECOND_NS
    return int(moment.timestamp()) * SECOND_NS + fraction, resolution_ns


def from_facts(line: str) -> Listed:
    """Read a line of MLSD or MLST."""
    told, _, name = line.partition(" ")
    facts = {key.lower(): value for key, _, value in (fact.partition("=") for fact in told.split(";"))}
    kind = facts.get("type", "").lower()
    if kind in ("cdir", "pdir"):
        name = "."
    mtime_ns, resolution_ns = _moment(facts.get("modify", "")) or (None, SECOND_NS)
    size = facts.get("size", "")
    return Listed(
        name,
        {"dir": True, "cdir": True, "pdir": True, "file": False}.get(kind),
        FileFacts(int(size) if size.isdecimal() else None, mtime_ns, resolution_ns),
    )


TOTAL = re.compile(r"total \d+\s*", re.ASCII)

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

UNIX_LINE = re.compile(
    rf"(?P<kind>[a-zA-Z-])[-a-zA-Z]{{9}}\S*\s.*?(?P<size>\d+)\s+(?P<month>{'|'.join(MONTHS)})\s+(?P<day>\d{{1,2}})\s+"
    r"(?:(?P<year>\d{4})|(?P<hour>\d{1,2}):(?P<minute>\d\d)) (?P<name>.+)",
    re.ASCII | re.DOTALL,
)

DOS_LINE = re.compile(
    r"(?P<month>\d\d)-(?P<day>\d\d)-(?P<year>\d{4}|\d\d)\s+(?P<hour>\d\d):(?P<minute>\d\d)(?P<half>[AP]M)?\s+"
    r"(?:<(?P<kind>[A-Z]+)>(?: {10}|\s+)|(?P<size>\d+) )(?P<name>.+)",
    re.ASCII | re.DOTALL,
)


def from_columns(lines: Iterable[str]) -> list[Listed]:
    """Read the lines of LIST, as servers of Unix or of Windows write them.

    :raises UnknownForm: one of them is written otherwise.
    """
    return [_from_line(line) for line in lines if not TOTAL.fullmatch(line)]


def _from_line(line: str) -> Listed:
    try:
        if unix := UNIX_LINE.fullmatch(line):
            return _from_unix(unix)
        if dos := DOS_LINE.fullmatch(line):
            return _from_dos(dos)
    except ValueError:
        pass  # no such date
    raise UnknownForm(repr(line))


def _from_unix(told: re.Match[str]) -> Listed:
    name, is_link = told["name"], told["kind"] == "l"
    if is_link:
        name = name.partition(" -> ")[0]
    # the size is the link's own
    size = None if is_link else int(told["size"])
    month, day = MONTHS.index(told["month"]) + 1, int(told["day"])
    if told["year"]:
        of_day = datetime(int(told["year"]), month, day, tzinfo=UTC)
        facts = FileFacts(size, int(of_day.timestamp()) * SECOND_NS, DAY_NS)
    else:
        facts = _of_minute(size, _last_year_with(month, day, int(told["hour"]), int(told["minute"])))
    return Listed(name, None if is_link else told["kind"] == "d", facts)


def _from_dos(told: re.Match[str]) -> Listed:
    year = told["year"] if len(told["year"]) == len("YYYY") else f"20{told['year']}"
    hour = int(told["hour"])
    if told["half"]:
        hour = hour % 12 + (12 if told["half"] == "PM" else 0)
    moment = datetime(int(year), int(told["month"]), int(told["day"]), hour, int(told["minute"]), tzinfo=UTC)
    facts = _of_minute(int(told["size"]) if told["size"] else None, moment)
    return Listed(told["name"], {None: False, "DIR": True}.get(told["kind"]), facts)


def _last_year_with(month: int, day: int, hour: int, minute: int) -> datetime:
    """Supply the year that a listing leaves out: the last one in which this moment is not in the future.

    Up to a day in the future is none, since the server's time zone is not known.

    :raises ValueError: there is no such moment.
    """
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for year in range(tomorrow.year, tomorrow.year - 9, -1):  # the 29th of February may be eight years ago
        with suppress(ValueError):
            moment = datetime(year, month, day, hour, minute, tzinfo=UTC)
            if moment <= tomorrow:
                return moment
    raise ValueError


def _of_minute(size: int | None, moment: datetime) -> FileFacts:
    """Give the facts of a file of which only the minute is known, in a time zone that is not.

    Zones differ by quarters of an hour, so whatever the zone is, a file whose age is some quarters of an hour may be
    brand-new: the time of observation is chosen as if it were.
    """
    mtime_ns = int(moment.timestamp()) * SECOND_NS
    # a little may be in the future, since the clocks may differ a little
    age_ns = (time.time_ns() - mtime_ns + QUARTER_HOUR_NS // 2) % QUARTER_HOUR_NS - QUARTER_HOUR_NS // 2
    return FileFacts(size, mtime_ns, MINUTE_NS, observed_ns=mtime_ns + age_ns)
