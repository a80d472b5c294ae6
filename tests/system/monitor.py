"""The genuine `monitor.py` and this provider, both watching one remote, and what each makes of every upload."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from anyio.from_thread import start_blocking_portal

from airflow_serving_reload.delivery.errors import PERMANENT, DeliveryError
from airflow_serving_reload.demo.processes import Child, Processes
from airflow_serving_reload.operators import serving_reload_dag
from airflow_serving_reload.triggers.folder import Glance
from tests.requirements import require

from .remotes import ARCHIVE, DONEFILE, MODEL, Remote, whole_version_in, write_model
from .running import wait_until

OPTIONS: dict[str, Any] = {
    "remote_path": "/",
    "remote_model_name": ARCHIVE,
    "remote_donefile_name": DONEFILE,
    "local_model_name": MODEL,
    "local_timestamp_file": "fluid_time_file",
    "local_tmp_path": "_tmp",
    "unpacked_filename": MODEL,
    "interval": 1,
}
"""The options that both take, word for word; those of the document's example, but for the interval."""

LOOKS = 2
"""After so many more looks, the first of which may have been under way, whoever has done nothing does nothing."""

RETRIES = 3

WITH_BASH_FOR_SH = ["--mount", "sh", "-c", 'mount --bind "$(command -v bash)" /bin/sh && exec "$@"', "sh"]


def shell_of_monitor() -> list[str]:
    """Give what a command must begin with so that `&>`, which `monitor.py` relies on, is understood by its shell.

    It calls `/bin/sh`, and not every `/bin/sh` is bash; where it is not, a mount of its own puts bash there for it.
    """
    prefixes: list[list[str]] = [[]]
    if (unshare := shutil.which("unshare")) and shutil.which("bash"):
        prefixes += [[unshare, *WITH_BASH_FOR_SH], [unshare, "--map-root-user", *WITH_BASH_FOR_SH]]
    for prefix in prefixes:
        command = [*prefix, "/bin/sh", "-c", "false &>/dev/null || echo understood"]
        if subprocess.run(command, capture_output=True, text=True, check=False).stdout == "understood\n":
            return prefix
    require(False, "needs a shell that understands &> for monitor.py: a /bin/sh that is bash, or leave to mount one")
    raise AssertionError


class Verdict(StrEnum):
    """What came of an upload."""

    LIVE = "live"
    BROKEN = "broken"
    KEPT = "kept"
    REFUSED = "refused"
    ENDED = "ended"


class Mark(NamedTuple):
    """How far a watcher was."""

    looks: int
    deliveries: int
    refusals: int


class Watcher(ABC):
    """Somebody who watches a remote, for a folder of a server that begins with an initial model.

    :param folder: the server's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (write_model(folder, "initial") / "fluid_time_file").touch()

    @abstractmethod
    def mark(self) -> Mark:
        """Tell how far it is."""

    def ended(self) -> bool:
        """Whether it watches no more."""
        return False

    def live(self) -> str | None:
        """Tell which version the server would load now; None if that is not a whole one."""
        return whole_version_in(self.folder / MODEL)

    def paused(self, since: Mark) -> bool:
        """Whether it has looked in vain, or will look no more."""
        return self.ended() or self.mark().looks >= since.looks + LOOKS

    def verdict(self, due: str | None, was: str | None, since: Mark) -> Verdict | None:
        """Tell what came of an upload; None if that is not known yet.

        :param due: the version that has to be live in the end; None if there is no new one.
        :param was: the version that was live before.
        :param since: how far it was before.
        """
        # in this order: whatever a look led to is there before the next one counts
        paused, now = self.paused(since), self.mark()
        if now.deliveries > since.deliveries:
            return Verdict.LIVE if due and self.live() == due else Verdict.BROKEN
        if not paused and now.refusals == since.refusals:
            return None
        if self.live() != was:
            return Verdict.BROKEN
        if now.refusals > since.refusals:
            return Verdict.REFUSED
        return Verdict.ENDED if self.ended() else Verdict.KEPT


class Monitor(Watcher):
    """The genuine `monitor.py`, started again and again.

    :param processes: owns it.
    :param python: interpreter of the environment that it is in.
    :param folder: the server's folder.
    :param remote: what it watches.
    """

    def __init__(self, processes: Processes, python: Path, folder: Path, remote: Remote) -> None:
        super().__init__(folder)
        options = {**OPTIONS, **remote.options, "local_path": folder}
        self._command = [*shell_of_monitor(), str(python), "-m", "paddle_serving_server.monitor"]
        self._command += [f"--{name}={value}" for name, value in options.items()]
        self._processes = processes
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Start it and wait until it has looked once, and has done what it always does then."""
        self._starts += 1
        # between two ends of one host no proxy has any business
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        log = self.folder.with_name(f"monitor-{self._starts}.log")
        self._process: Child = self._processes.start(
            "monitor.py", self._command, log=log, environment=environment, folder=self.folder
        )
        wait_until(lambda: self.mark().looks or self.ended(), f"the first look of monitor.py in {log}")
        assert self.mark().looks, log.read_text()

    def mark(self) -> Mark:
        """Count in its log."""
        log = self._process.log.read_text()
        return Mark(log.count("sleep 1s."), log.count("update model timestamp("), 0)

    def ended(self) -> bool:
        """Whether its process has ended."""
        return self._process.status is not None

    def last_words(self) -> str:
        """Give the last line of its log."""
        return self._process.last_lines(1)


class Provider(Watcher):
    """The Dag that takes the place of the command line: its trigger and its task, without an Airflow around them.

    :param folder: the server's folder.
    :param conn_id: connection to what it watches.
    """

    def __init__(self, folder: Path, conn_id: str) -> None:
        super().__init__(folder)
        dag = serving_reload_dag("side_by_side", conn_id=conn_id, local_path=str(folder), **OPTIONS)
        [donefile] = dag.schedule
        self._trigger = donefile.watchers[0].trigger
        self._task = dag.get_task("reload_model")
        self._looks = 0
        self._watching: Future[None] | None = None
        self.delivered: list[str | None] = []
        self.refusals: list[DeliveryError] = []

    def mark(self) -> Mark:
        """Tell what was counted."""
        return Mark(self._looks, len(self.delivered), len(self.refusals))

    def ended(self) -> bool:
        """Whether an error has ended it."""
        return self._watching is not None and self._watching.done()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the end of the `with` block.

        :raises Exception: what has ended it before.
        """
        with start_blocking_portal() as portal:
            self._watching = portal.start_task_soon(self._watch)
            yield
            if not self._watching.cancel():
                self._watching.result()

    async def _watch(self) -> None:
        async with aclosing(self._trigger.filter_shared_stream(self._glances())) as events:
            async for _event in events:
                await asyncio.to_thread(self._deliver)

    async def _glances(self) -> AsyncGenerator[Glance]:
        _, kwargs = self._trigger.serialize()
        async with aclosing(self._trigger.open_shared_stream(kwargs)) as glances:
            while True:
                # the next one is asked for only when everything that this one leads to is done
                self._looks += 1
                yield await anext(glances)

    def _deliver(self) -> None:
        """Run the task as Airflow does: once more after a fault that may pass, but not after any other."""
        for _ in range(1 + RETRIES):
            try:
                outcome = self._task.execute({})
            except DeliveryError as fault:
                if isinstance(fault, PERMANENT):
                    self.refusals.append(fault)
                    return
                time.sleep(1)
            else:
                if outcome["changed"]:
                    self.delivered.append(self.live())
                return


@dataclass(frozen=True)
class Outcome:
    """What came of an upload.

    :param seconds: after which it was known.
    :param words: of who can do no more.
    """

    verdict: Verdict
    seconds: float
    words: str = ""


@dataclass(frozen=True)
class Row:
    """One event at the remote, and what came of it.

    :param due: the version that has to be live in the end; None if there is no new one.
    """

    event: str
    due: str | None
    monitor: Outcome
    provider: Outcome

    def columns(self) -> list[str]:
        """Give it as the columns of a table."""
        columns = [self.event, self.due or "nothing"]
        for outcome in (self.monitor, self.provider):
            match outcome.verdict:
                case Verdict.KEPT:
                    columns += ["**missed**" if self.due else "nothing", ""]
                case Verdict.ENDED:
                    columns += [f"**ended**: {outcome.words}", ""]
                case Verdict.BROKEN:
                    columns += ["**a broken model live**", f"{outcome.seconds:.1f} s"]
                case _:
                    columns += [outcome.verdict.value, f"{outcome.seconds:.1f} s"]
        return columns


@dataclass
class SideBySide:
    """Both watchers of one remote."""

    monitor: Monitor
    provider: Provider

    def after(self, event: str, happens: Callable[[], None], *, due: str | None) -> Row:
        """Let something happen at the remote, and see what both make of it; a monitor that ended is started before.

        :param event: what happens, in words.
        :param due: the version that has to be live in the end; None if there is no new one.
        """
        if self.monitor.ended():
            self.monitor.start()
        watchers: Mapping[str, Watcher] = {"monitor": self.monitor, "provider": self.provider}
        outcomes: dict[str, Outcome] = {}
        was = {name: watcher.live() for name, watcher in watchers.items()}
        since = {name: watcher.mark() for name, watcher in watchers.items()}
        happens()
        since = {name: since[name]._replace(looks=watcher.mark().looks) for name, watcher in watchers.items()}
        began = time.monotonic()

        def all_known() -> bool:
            for name in watchers.keys() - outcomes.keys():
                if verdict := watchers[name].verdict(due, was[name], since[name]):
                    words = self.monitor.last_words() if verdict is Verdict.ENDED else ""
                    outcomes[name] = Outcome(verdict, time.monotonic() - began, words)
            return len(outcomes) == len(watchers)

        wait_until(all_known, f"what becomes of {event}")
        return Row(event, due, outcomes["monitor"], outcomes["provider"])

    def pause(self) -> None:
        """Let both look in vain, or end."""
        since = [(watcher, watcher.mark()) for watcher in (self.monitor, self.provider)]
        wait_until(lambda: all(watcher.paused(mark) for watcher, mark in since), "looks in vain")


def table(kind: str, rows: list[Row]) -> str:
    """Write a table as Markdown has it."""
    head = [
        [kind, "should go live", "`monitor.py`", "after", "this provider", "after"],
        ["---", "---", "---", "--:", "---", "--:"],
    ]
    return "\n".join(f"| {' | '.join(columns)} |" for columns in [*head, *(row.columns() for row in rows)])
