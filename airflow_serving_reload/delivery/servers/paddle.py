"""Paddle Serving, which reloads when the timestamp file moves and tells of it in its log.

The contract is that of its C++ server (`core/predictor/framework/infer.cpp` and `infer.h`): the file's whole
seconds are compared with "not equal", written down before the load, and a load that failed is not tried again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from urllib.parse import urlsplit

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
UNDECIDED = (State.WAITING, State.LOADING)
"""How far a server is as long as what its log says next counts."""
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
        """Give the address to probe without what may be secret in it."""
        if not self.probe_url:
            return None
        # Only whoever tells it pays for the client.
        from airflow_serving_reload.delivery.requests_faults import without_credentials

        with suppress(ValueError):  # what is no port may be a password
            address = urlsplit(without_credentials(self.probe_url))
            if address.hostname and address.port != 0:
                return address.geturl()
        return "no URL"

    def mark(self) -> Mark:
        """Note the end of the log."""
        with self._log() as log:
            if log is None:
                return {}
            status = os.fstat(log.fileno())
        return {"file": status.st_ino, "offset": status.st_size}

    def mark_since(self, seconds: float) -> Mark:
        """Find the first line of the log that was written at or after a moment, going back from its end."""
        with self._log() as log:
            if log is None:
                return {}
            status = os.fstat(log.fileno())
            offset = status.st_size
            for position, line in _lines_backwards(log):
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
        """Read the log behind the mark, or behind the last look, and ask the probe once the log says yes."""
        said = self._look_at_log(mark) if self.log_path else Look(State.SERVED)
        if said.state is not State.SERVED or not self.probe_url:
            return said
        return self._probe(expected, said)

    def _look_at_log(self, mark: Mark) -> Look:
        """Go on where the last look ended, which the mark remembers, or at the beginning of a log that is another."""
        with self._log() as log:
            if log is None:
                return Look(State.WAITING)
            status = os.fstat(log.fileno())
            if status.st_ino != mark.get("file") or status.st_size < mark["offset"]:
                mark.update(file=status.st_ino, offset=0, look=Look(State.WAITING))
            look: Look = mark.get("look", Look(State.WAITING))
            offset = log.seek(mark["offset"])
            while look.state in UNDECIDED and (line := log.readline()).endswith(b"\n"):
                offset += len(line)
                look = self._look_on(look, line.decode("utf-8", "replace").rstrip())
        mark.update(offset=offset, look=look)
        return look

    def _look_on(self, look: Look, line: str) -> Look:
        """Give what the log says with one more line."""
        begin, end = BEGIN.search(line), END.search(line)
        if (begin or end) and SUCCESS.search(look.evidence):
            # Models are loaded one after the other: what comes next shows that this one is whole.
            return Look(State.SERVED, look.evidence)
        if begin or end:
            ours = begin and self._is_ours(begin["path"])
            return Look(State.LOADING, line) if ours else Look(State.WAITING)
        if look.state is State.WAITING:
            return look
        if FAILURE.search(line):
            return Look(State.REFUSED, line)
        success = SUCCESS.search(line)
        ours = success and self._is_ours(success["engine"] or success["model"])
        return Look(State.LOADING, line) if ours else look

    def _is_ours(self, path: str) -> bool:
        return self.model_name is None or Path(path).name == Path(self.model_name).name

    @contextmanager
    def _log(self) -> Iterator[BinaryIO | None]:
        """Open the log; None if there is none, or none yet.

        :raises Refused: it cannot be read.
        """
        try:
            with _opened(self.log_path) as file:
                yield file
        except OSError as error:
            raise Refused(
                f"reading the log {self.log_path}: {error.strerror}; check log_path, and that this user may read it"
            ) from error

    def _probe(self, expected: Expected, said: Look) -> Look:
        # Only whoever probes pays for the client.
        import requests

        from airflow_serving_reload.delivery.requests_faults import faults_of_requests

        doing = f"asking the probe_url ({self._address()})"
        try:
            with faults_of_requests(doing, other_end="server", unreachable=_NoAnswerError):
                answer = requests.get(str(self.probe_url), timeout=10)
        except _NoAnswerError as error:
            return Look(State.WAITING, f"{said.evidence}; {error}".lstrip("; "))
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


class _NoAnswerError(Exception):
    """The server is out of reach."""


def _opened(log_path: str | None) -> AbstractContextManager[BinaryIO | None]:
    if not log_path:
        return nullcontext()
    try:
        return Path(log_path).open("rb")
    except FileNotFoundError:
        return nullcontext()


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
