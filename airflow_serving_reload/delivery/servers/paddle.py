"""Paddle Serving, which reloads when the timestamp file moves and tells of it in its log.

The contract is that of its C++ server (`core/predictor/framework/infer.cpp` and `infer.h`): the file's whole
seconds are compared with "not equal", written down before the load, and a load that failed is not tried again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.delivery.servers.base import (
    Connect,
    Expected,
    Look,
    Mark,
    ModelServer,
    ServerDescription,
    State,
)

BEGIN = re.compile(r"begin reload model\[(?P<path>.*)\]\.")
SUCCESS = re.compile(
    r"Succ load (engine, path: (?P<engine>.*)|(clone model|common model\[.*\]), path\[(?P<model>.*)\]\.?)$"
)
FAILURE = re.compile(
    r"Failed (create model, path|to create common model|clone model from|reload engine model|reload version engine"
    r"|reload engine, name|reload infer manager|reload resource)"
)
END = re.compile(r"Finish reload \d+ workflow")
PREFIX = re.compile(r"^[IWEF](?P<moment>\d{4} \d\d:\d\d:\d\d\.\d+) ")
"""How glog begins a line: severity, month and day, local time."""
BLOCK = 1 << 16
"""Bytes of a log read at a time when going back in it."""


@dataclass
class PaddleServer(ServerDescription, ModelServer):
    """A Paddle Serving server on the host of the model.

    Give its log, an address to probe, or better both. A probe is a GET that must answer 2xx; where the answer is
    JSON and has a `release` or a `timestamp` (the timestamp file's whole second with which the model was loaded),
    that must be the expected one. Without a log, the answer has to have one of them.

    :param log_path: its log file, usually `log/serving.INFO` in the folder that it was started in.
    :param probe_url: address that answers when the model does.
    :param reload_interval: seconds between two looks of the server at the timestamp file (its flag
        `reload_interval_s`).
    :param load_timeout: seconds that loading a model may take.
    :param model_name: last part of the model's path as the log writes it, where several models share one log.
    """

    log_path: str | None = None
    probe_url: str | None = None
    reload_interval: float = 10
    load_timeout: float = 600
    model_name: str | None = None

    template_fields: ClassVar[tuple[str, ...]] = ("log_path", "probe_url", "model_name")

    def __post_init__(self) -> None:
        """Refuse a description by which nothing could be confirmed."""
        if not self.log_path and not self.probe_url:
            raise Refused("describing a PaddleServer: without log_path and probe_url nothing tells what it serves")

    @contextmanager
    def open(self, connect: Connect) -> Iterator[ModelServer]:
        """Give the server: its log and its probe need no connection."""
        yield self

    def __str__(self) -> str:
        """Name the server for people."""
        return f"the Paddle server ({self._address() or self.log_path})"

    def _address(self) -> str | None:
        """Give the address to probe without what may be a password in it."""
        return self.probe_url and re.sub(r"//[^/@]*@", "//", self.probe_url)

    def mark(self) -> Mark:
        """Note the end of the log."""
        if not self.log_path or not (log := Path(self.log_path)).exists():
            return {}
        status = log.stat()
        return {"file": status.st_ino, "offset": status.st_size}

    def mark_since(self, seconds: float) -> Mark:
        """Find the first line of the log that was written at or after a moment, going back from its end."""
        if not self.log_path or not (log := Path(self.log_path)).exists():
            return {}
        with log.open("rb") as file:
            status = os.fstat(file.fileno())
            offset = status.st_size
            for position, line in _lines_backwards(file):
                written = _moment(line)
                if written is not None and written < seconds:
                    break
                offset = offset if written is None else position
        return {"file": status.st_ino, "offset": offset}

    def ask(self, mark: Mark) -> Mark:
        """Do nothing: the timestamp file asks."""
        return mark

    def patience(self, state: State) -> float:
        """Give two intervals for the server to notice, then the time to load."""
        if state is State.WAITING and self.log_path:
            return 2 * self.reload_interval + 10
        return self.load_timeout

    def look(self, expected: Expected, mark: Mark) -> Look:
        """Read the log behind the mark, and ask the probe once the log says yes."""
        said = self._look_at_log(mark) if self.log_path else Look(State.SERVED)
        if said.state is not State.SERVED or not self.probe_url:
            return said
        return self._probe(expected, said)

    def _look_at_log(self, mark: Mark) -> Look:
        look = Look(State.WAITING)
        for line in self._lines(mark):
            begin, end = BEGIN.search(line), END.search(line)
            if (begin or end) and SUCCESS.search(look.evidence):
                # Models are loaded one after the other: what comes next shows that this one is whole.
                return Look(State.SERVED, look.evidence)
            if begin or end:
                ours = begin and self._is_ours(begin["path"])
                look = Look(State.LOADING, line) if ours else Look(State.WAITING)
            elif look.state is State.WAITING:
                continue
            elif FAILURE.search(line):
                return Look(State.REFUSED, line)
            elif (success := SUCCESS.search(line)) and self._is_ours(success["engine"] or success["model"]):
                look = Look(State.LOADING, line)
        return look

    def _is_ours(self, path: str) -> bool:
        return self.model_name is None or Path(path).name == Path(self.model_name).name

    def _lines(self, mark: Mark) -> Iterator[str]:
        """Give the whole lines behind the mark, or all of them if the log was begun anew meanwhile."""
        try:
            with Path(str(self.log_path)).open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino == mark.get("file") and status.st_size >= mark["offset"]:
                    file.seek(mark["offset"])
                for line in file:
                    if line.endswith(b"\n"):
                        yield line.decode("utf-8", "replace").rstrip()
        except FileNotFoundError:
            return
        except OSError as error:
            raise Refused(
                f"reading the log {self.log_path}: {error.strerror}; check log_path, and that this user may read it"
            ) from error

    def _probe(self, expected: Expected, said: Look) -> Look:
        # Only whoever probes pays for the client.
        import requests

        try:
            answer = requests.get(str(self.probe_url), timeout=10)
        except requests.RequestException as error:
            return Look(State.WAITING, f"{said.evidence}; no answer to the probe: {error}".lstrip("; "))
        if not answer.ok:
            return Look(State.WAITING, f"{said.evidence}; the probe answered {answer.status_code}".lstrip("; "))
        names_it = _names(answer, expected)
        if names_it or (names_it is None and self.log_path):
            return Look(State.SERVED, f"{said.evidence}; the probe answered {answer.text[:200]}".lstrip("; "))
        if names_it is None:
            raise Refused(
                f"asking {self._address()} what it serves: its answer {answer.text[:200]!r} has neither 'release' nor "
                "'timestamp'; give log_path too"
            )
        return Look(State.WAITING, f"the probe answered {answer.text[:200]}")


def _names(answer: Any, expected: Expected) -> bool | None:
    """Whether the answer names what is expected; None if it names nothing."""
    try:
        told = answer.json()
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    second = None if expected.mtime_ns is None else expected.mtime_ns // 1_000_000_000
    wanted = {"timestamp": second, "release": expected.release}
    matches = [told[name] == value for name, value in wanted.items() if name in told and value is not None]
    return all(matches) if matches else None


def _lines_backwards(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Give each line of a file, the last one first, and its position, reading one block at a time."""
    position = file.seek(0, os.SEEK_END)
    cut = b""  # the line whose beginning is in the block before
    while position:
        size = min(BLOCK, position)
        position = file.seek(position - size)
        cut, *lines = (file.read(size) + cut).splitlines(keepends=True)
        start = position + len(cut) + sum(map(len, lines))
        for line in reversed(lines):
            start -= len(line)
            yield start, line.decode("utf-8", "replace")
    yield 0, cut.decode("utf-8", "replace")


def _moment(line: str) -> float | None:
    """Read when a line was written, in seconds since the epoch, by this host's time zone."""
    match = PREFIX.match(line)
    if match is None:
        return None
    now = datetime.now().astimezone()
    for year in (now.year, now.year - 1):
        with suppress(ValueError):  # a day that is not in that year
            written = datetime.strptime(f"{year} {match['moment']}", "%Y %m%d %H:%M:%S.%f").astimezone()
            if written - now < timedelta(days=1):  # else written in December, read in January
                return written.timestamp()
    return None
