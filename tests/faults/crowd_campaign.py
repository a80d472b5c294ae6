"""Processes that deliver to, and roll back, one model at the same time: what comes of it is one of them, whole."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from airflow_serving_reload.delivery.pipeline import deliver, roll_back
from airflow_serving_reload.delivery.release import PublishMode, Releases
from tests.delivery.models import AN_HOUR_NS, Host, Training, set_time
from tests.delivery.watching import read
from tests.forked import fork, status_of

from .killing import Watching

DELIVERIES = 6
ROLL_BACKS = 2
LONGEST = 60.0
"""Seconds after which processes that have not ended are killed."""

OLD = ("first", "older", "old")
NEW = tuple(f"new{number}" for number in range(DELIVERIES))


@dataclass(frozen=True)
class Crowd:
    """A way for processes to meet, while another one holds locks.

    :param mode: how releases are published.
    :param kills: whether who holds the locks that they wait for is killed, instead of letting go.
    :param apart: whether theirs is another model than the one whose locks are held.
    """

    mode: PublishMode = "auto"
    kills: bool = False
    apart: bool = False


CROWDS = {
    "one model": Crowd(),
    "one model, in place": Crowd(mode="in_place"),
    "one model, held by a killed process": Crowd(kills=True),
    "another model than the one held": Crowd(apart=True),
}


@dataclass
class Tally:
    """What came of one crowd.

    :param runs: processes.
    :param waited: those that said that they waited.
    :param whole: times that the model was that of one of them in the end, whole.
    :param mixed: what else was seen of it, meanwhile or in the end.
    :param errors: processes that failed, and what else should not have been.
    """

    runs: int = 0
    waited: int = 0
    whole: int = 0
    mixed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Run:
    """A process that does something once it is told to, and tells what it logs, and what it came to.

    :param do: what it does; gives one line.
    """

    def __init__(self, do: Callable[[], str]) -> None:
        gate, self._gate = os.pipe()
        told, telling = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            os.close(self._gate)
            os.close(told)
            os.read(gate, 1)
            _tell(do, telling)
        os.close(gate)
        os.close(telling)
        self._lines = os.fdopen(told)
        self.said: list[str] = []

    def start(self) -> None:
        """Let it begin."""
        os.write(self._gate, b"\n")

    def hear(self, word: str) -> bool:
        """Wait for a line that begins with a word; false if it ended without."""
        for line in self._lines:
            self.said.append(line.rstrip("\n"))
            if line.startswith(word):
                return True
        return False

    def end(self) -> str:
        """Wait until it has ended, and give its last line."""
        self.hear("\0")
        status_of(self.pid)
        os.close(self._gate)
        self._lines.close()
        return self.said[-1] if self.said else "it was killed"

    @property
    def waited(self) -> bool:
        """Whether it said that it waits."""
        return any(line.startswith("waiting for another") for line in self.said)


def _tell(do: Callable[[], str], telling: int) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            os.write(telling, f"{record.getMessage()}\n".encode())

    logging.disable(logging.NOTSET)
    logger = logging.getLogger("airflow_serving_reload")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(Handler())
    try:
        line = f"done {do()}"
    except BaseException as error:  # noqa: BLE001 - the parent is told
        line = f"failed {error!r}".replace("\n", " ")
    os.write(telling, f"{line}\n".encode())
    os._exit(0)


def attack(name: str, *, rounds: int = 1) -> Tally:
    """Let eight processes meet, some times over."""
    tally = Tally()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            _meet(CROWDS[name], Path(folder), tally)
    return tally


def _meet(crowd: Crowd, folder: Path, tally: Tally) -> None:
    host = Host(folder, publish_mode=crowd.mode, keep_releases=10)
    _prepare(host, folder)
    held = Releases(host.folder, "another" if crowd.apart else host.local.model)

    def hold() -> str:
        with held.delivering(), held.publishing():
            logging.getLogger("airflow_serving_reload").info("held")
            signal.pause()
        return ""

    runs = [Run(lambda version=version: _deliver(host, folder, version)) for version in NEW]  # type: ignore[misc]
    runs += [Run(lambda: _roll_back(host)) for _ in range(ROLL_BACKS)]
    holder = Run(_until_interrupted(hold))
    with _bounded(*runs, holder), Watching(lambda: _look(host)) as watching:
        holder.start()
        holder.hear("held")
        for run in runs:
            run.start()
        if crowd.apart:
            ends = [run.end() for run in runs]
        else:
            for run in runs:
                run.hear("waiting for another")
        os.kill(holder.pid, signal.SIGKILL if crowd.kills else signal.SIGINT)
        holder.end()
        if not crowd.apart:
            ends = [run.end() for run in runs]
    tally.runs += len(runs)
    tally.waited += sum(run.waited for run in runs)
    tally.errors += [end for end in ends if not end.startswith("done ")]
    if crowd.mode == "auto":
        tally.mixed += sorted(watching.seen - {*OLD, *NEW})
    live = host.releases.live()
    found = _look(host)
    if live and f"done {live.release} {found}" in ends:
        tally.whole += 1
    else:
        tally.mixed.append(f"{found}, of {live}, at the end; but they did {ends}")
    if unfinished := list(host.temporary.iterdir()):
        tally.errors.append(f"left behind: {unfinished}")


def _prepare(host: Host, folder: Path) -> None:
    host.start_with(OLD[0])
    for version in OLD[1:]:
        _deliver(host, folder, version)
    for version in NEW:
        Training(folder / version).upload(version)
    set_time(host.timestamp, ahead_ns=AN_HOUR_NS)


def _deliver(host: Host, folder: Path, version: str) -> str:
    training = Training(folder / version)
    if version in OLD:
        training.upload(version)
    remote = training.remote
    outcome = deliver(remote, host.local, unpacked_filename="m", temporary=host.temporary, server=host.serve())
    return f"{outcome.record.release} {version}"


def _roll_back(host: Host) -> str:
    record = roll_back(host.local, None, host.serve(), "a test").record
    return f"{record.release} {read(str(host.releases.path(record)))}"


def _until_interrupted(hold: Callable[[], str]) -> Callable[[], str]:
    def held() -> str:
        # who runs the tests may ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return hold()
        except KeyboardInterrupt:
            return ""

    return held


def _look(host: Host) -> str:
    try:
        return read(str(host.model))
    except OSError as error:
        return f"nothing: {error}"


@contextmanager
def _bounded(*runs: Run) -> Iterator[None]:
    """Kill what has not ended in time, so that nobody waits for it for ever."""

    def kill() -> None:
        for run in runs:
            with suppress(ProcessLookupError):
                os.kill(run.pid, signal.SIGKILL)

    with ExitStack() as stack:
        timer = threading.Timer(LONGEST, kill)
        stack.callback(timer.cancel)
        timer.start()
        yield
