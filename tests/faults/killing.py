"""Kills a process at each of its system calls that change the file system, one process for each."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.forked import END_SECONDS, fork, status_of
from tests.requirements import require_program

CHANGES = ",".join(
    f"?{name}"
    for name in (
        *("open", "openat", "openat2", "creat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat"),
        *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
        *(
            "write",
            "writev",
            "pwrite64",
            "pwritev",
            "sendfile",
            "copy_file_range",
            "ftruncate",
            "truncate",
            "fallocate",
        ),
        *("utime", "utimes", "utimensat", "chmod", "fchmod", "fchmodat", "setxattr", "fsetxattr"),
        *("fsync", "fdatasync", "sync", "syncfs"),
    )
)
"""What changes a file system, or what a disk holds of it; opening to read is among it, and costs a needless kill."""


def killed_at(number: int, change: Callable[[], object]) -> bool:
    """Do something in a process that is killed on entering its nth changing system call.

    Threads are counted each by itself, and the first to come so far is the end of all.

    :return: false if it ended before.
    """
    gate, opened = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(opened)
        _do_and_exit(gate, change)
    os.close(gate)
    inject = f"inject={CHANGES}:signal=SIGKILL:when={number}"
    options = ["--follow-forks", "--output", os.devnull, "-e", f"trace={CHANGES}", "-e", inject]
    with subprocess.Popen(
        [str(require_program("strace", "strace")), *options, "--attach", str(pid)], stderr=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        os.close(opened)
        status = status_of(pid)
    assert "attached" in said, said
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, "the child hung"
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return False


def _do_and_exit(gate: int, change: Callable[[], object]) -> None:
    code = 1
    try:
        os.read(gate, 1)
        change()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


class Watching:
    """A process that reads something without pause, from before a fault until after it.

    :param look: reads once; gives what it saw, in one line.
    """

    def __init__(self, look: Callable[[], str]) -> None:
        self._look = look

    def __enter__(self) -> Self:
        """Start it, and wait until it has looked once."""
        self._told, ending = os.pipe()
        self._ending = ending
        seeing, self._saw = os.pipe()
        self._seen = seeing
        self._pid = fork()
        if self._pid == 0:
            self._watch()
        os.close(self._told)
        os.close(self._saw)
        self._lines = os.fdopen(self._seen)
        assert select.select([self._seen], [], [], END_SECONDS)[0], "it does not look"
        self.first = self._lines.readline().rstrip("\n")
        return self

    def __exit__(self, *_exc: object) -> None:
        """End it."""
        os.close(self._ending)
        assert status_of(self._pid) == 0, "it failed to look"
        self.seen = {self.first, *self._lines.read().splitlines()}
        self._lines.close()

    def _watch(self) -> None:
        os.close(self._ending)
        os.set_blocking(self._told, False)
        seen: set[str] = set()
        code = 1
        try:
            while code:
                saw = self._look()
                if saw not in seen:
                    seen.add(saw)
                    os.write(self._saw, f"{saw}\n".encode())
                with suppress(BlockingIOError):
                    code = len(os.read(self._told, 1))
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)


def copies(prepared: Path, cases: Path) -> Callable[[int], Path]:
    """Give what makes a copy of a prepared folder, for the case of that number."""

    def copy(number: int) -> Path:
        folder = cases / f"{number:04}"
        subprocess.run(["cp", "--archive", str(prepared), str(folder)], check=True)
        return folder

    return copy
