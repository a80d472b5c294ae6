"""Child processes that are started, awaited and ended as a whole, and that never outlive their owner.

Each child runs below a guardian: this file, run as a small program of its own. On Linux the guardian adopts
every orphan among the descendants of its child, whichever process group or session they have moved to, and so
the kernel tells it when nobody is left. It ends them all when the owner asks, when the child exits, and when
the owner is gone, however that came about: the pipe between the two then closes.
Elsewhere only the child and its own process group are reached.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, NoReturn, Self, cast

_END = b"e"
_KILL = b"k"
_POLL_SECONDS = 0.05
_LOG_BYTES = 1 << 16  # enough for the last lines
_SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


class ProcessError(RuntimeError):
    """A child process failed, ended early or did not become ready in time."""


@dataclass(frozen=True, slots=True)
class Child:
    """One child process and its log; :meth:`Processes.start` makes it."""

    name: str
    log: Path
    _log_start: int
    _guardian: subprocess.Popen[bytes]

    @property
    def status(self) -> int | None:
        """The exit status, 128 + number where a signal ended the child; None while anything of it runs."""
        return self._guardian.poll()

    def last_lines(self, count: int = 20) -> str:
        """Give the last lines that this child has written.

        :param count: how many lines at most.
        """
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _LOG_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def wait(self, seconds: float) -> int:
        """Wait until the child and all its descendants have exited by themselves.

        :param seconds: how long to wait at most.
        :return: the exit status of the child.
        :raises ProcessError: if something of it is still running then.
        """
        try:
            return self._guardian.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.error(f"should have ended by itself, but still runs after {seconds:g} s") from None

    def end(self, *, kill: bool = False) -> None:
        """End the child and all its descendants, and wait until they are gone.

        :param kill: use SIGKILL at once, as a crash would, in place of SIGTERM and SIGKILL after a while.
        """
        orders = cast("IO[bytes]", self._guardian.stdin)
        with suppress(BrokenPipeError):  # It has ended by itself.
            orders.write(_KILL if kill else _END)
        self._guardian.wait()
        orders.close()

    def error(self, what: str) -> ProcessError:
        """Make the error that says what this child did and shows the last lines of its log."""
        return ProcessError(
            f"{self.name} {what}. The last lines of {self.log}:\n{self.last_lines() or '(it wrote nothing)'}"
        )


class Processes:
    """Owns child processes; on leaving the ``with`` block they are ended in reverse order of their start.

    :param unwind_on_signals: let SIGINT raise KeyboardInterrupt and SIGTERM raise SystemExit inside the
        ``with`` block, so that everything around it is cleaned up too. For an owner with signal handlers of
        its own switch it off: the guardians still end the children once the owner is gone.
    """

    def __init__(self, *, unwind_on_signals: bool = True) -> None:
        self._unwind_on_signals = unwind_on_signals
        self._children: list[Child] = []
        self._handlers = ExitStack()

    def __enter__(self) -> Self:
        if self._unwind_on_signals and threading.current_thread() is threading.main_thread():
            self._handlers.enter_context(_unwinding_signals())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._handlers:
            self.end_all()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        grace: float = 10.0,
    ) -> Child:
        """Start a child in a session of its own, with no input and its output appended to a log file.

        :param name: what error messages call it.
        :param command: the program and its arguments.
        :param log: the log file, created with its folder where they do not exist.
        :param environment: all environment variables of the child; None hands down the owner's.
        :param folder: the working directory of the child; None hands down the owner's.
        :param grace: seconds between SIGTERM and SIGKILL.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            guardian = subprocess.Popen(  # noqa: S603 - what to run is the caller's own choice
                # Isolated and without site-packages: a guardian starts in milliseconds and stays small.
                [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(grace), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                # Ctrl+C in the terminal is for the owner alone, who then ends its children in order.
                start_new_session=True,
                bufsize=0,
            )
            child = Child(name, log, output.tell(), guardian)
        self._children.append(child)
        return child

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        seconds: float,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Run a child to its end; the parameters are those of :meth:`start`.

        :param seconds: how long it may take.
        :raises ProcessError: if it fails or takes longer.
        """
        child = self.start(name, command, log=log, environment=environment, folder=folder)
        try:
            status = child.wait(seconds)
        finally:
            self.end(child)
        if status:
            raise child.error(f"failed with exit status {status}")

    def wait_until(self, ready: Callable[[], bool], child: Child, *, seconds: float) -> None:
        """Wait until a child is ready, while all children live.

        :param ready: tells whether it is; asked again and again.
        :param child: the child that is waited for.
        :param seconds: how long to wait at most.
        :raises ProcessError: if any of the children has ended, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise child.error(f"was not ready within {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Check that all children live.

        :raises ProcessError: if one has ended by itself.
        """
        for child in self._children:
            if child.status is not None:
                raise child.error(f"ended with exit status {child.status}, but should be running")

    def end(self, child: Child, *, kill: bool = False) -> None:
        """End one child with all its descendants, and own it no longer.

        :param kill: see :meth:`Child.end`.
        """
        child.end(kill=kill)
        self._children.remove(child)

    def end_all(self) -> None:
        """End all children in reverse order of their start; an interrupt meanwhile kills what is left."""
        try:
            while self._children:
                self.end(self._children[-1])
        finally:
            while self._children:
                self.end(self._children[-1], kill=True)


@contextmanager
def _unwinding_signals() -> Iterator[None]:
    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    previous = {
        # A shell starts background jobs with SIGINT ignored, and Python would leave it so.
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, leave),
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Guardian:
    """The guardian's program: runs one command and leaves nothing of it behind.

    Single-threaded; everything that can happen arrives as a readable file descriptor: an order or the end of
    the owner on standard input, the end of the owner on its process handle, and signals on a pipe.
    """

    def __init__(self, owner: int, grace: float, command: Sequence[str]) -> None:
        self._grace = grace
        self._kill_at: float | None = None
        _adopt_orphans()
        self._orders = sys.stdin.fileno()
        self._signals = _signal_pipe()
        self._watched = [self._orders, self._signals, *_handle_of(owner)]
        self._child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def run(self) -> int:
        """Wait for the end of the child or the owner's word, then end whoever is left.

        :return: the exit status of the child.
        """
        while self._reap():
            timeout = None
            if self._kill_at is not None:
                timeout = self._kill_at - time.monotonic()
                if timeout <= 0:
                    self._send(signal.SIGKILL)
                    timeout = _POLL_SECONDS  # Somebody may have been born meanwhile: look again.
            for source in select.select(self._watched, [], [], timeout)[0]:
                self._hear(source)
        code = self._child.returncode
        return code if code >= 0 else 128 - code

    def _reap(self) -> bool:
        """Bury the dead.

        :return: whether anybody is left.
        """
        while True:
            try:
                dead, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not dead:
                return True
            if dead == self._child.pid:
                self._child.returncode = os.waitstatus_to_exitcode(status)
                self._kill_at = self._kill_at or time.monotonic() + self._grace
                self._send(signal.SIGTERM)  # to whoever it leaves behind

    def _hear(self, source: int) -> None:
        if source == self._signals:
            if os.read(source, 1)[0] != signal.SIGCHLD:  # The dead are buried in any case.
                self._terminate()
        elif source == self._orders and (order := os.read(source, 1)):
            if order == _KILL:
                self._kill_at = time.monotonic()
            else:
                self._terminate()
        else:
            self._watched.remove(source)  # The owner is gone.
            self._terminate()

    def _terminate(self) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace
            # Its own group alone, and once: the child ends its other groups itself, in the order it wants,
            # and takes a second signal for impatience.
            self._send_group(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        """Signal everybody who is left."""
        if sys.platform == "linux":
            for process in _descendants(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(process, number)
        else:
            self._send_group(number)

    def _send_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # The latter is macOS's word for a dead group.
            os.killpg(self._child.pid, number)


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _handle_of(owner: int) -> list[int]:
    """Open a handle that becomes readable when the owner exits.

    The pipe alone would not do where the owner has forked: it stays open as long as the fork lives.
    """
    if sys.platform == "linux" and os.getppid() == owner:
        with suppress(OSError):  # The kernel is too old for it.
            return [os.pidfd_open(owner)]
    return []


def _signal_pipe() -> int:
    """Turn the signals that matter to a guardian into bytes.

    :return: the end of the pipe to read them from.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    return reader


def _descendants(ancestor: int) -> list[int]:
    """List all descendants of a process, as /proc of Linux tells."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The parent is the second field after the command, which may hold anything, even ")".
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [ancestor]
    for process in found:
        found.extend(children.get(process, ()))
    return found[1:]


def _guard(arguments: Sequence[str]) -> int:
    owner, grace, *command = arguments
    try:
        return _Guardian(int(owner), float(grace), command).run()
    except OSError as error:
        sys.stderr.write(f"Cannot start {command[0]}: {error}.\n")
        return 127


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
