"""Child processes for the tests: they hold locks, and are killed while they change the file system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from airflow_serving_reload.delivery import filesystem
from tests.forked import fork, status_of

CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "os.utime"}
"""What Python's audit events call the changes of a file system."""


class Child:
    """A Python process that one talks with line by line.

    :param arguments: of the interpreter.
    """

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        """Talk with it until the end of the `with` block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Kill it, if it has not ended."""
        self.kill()

    def hear(self) -> str:
        """Wait for a line, without its end; empty if it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def tell(self) -> None:
        """Let it go on from where it waits for a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """Kill it by SIGKILL and wait until it is gone."""
        self._process.kill()
        self._process.communicate()


def killed_after_each_change(cases: Path, prepare: Callable[[Path], Any], change: Callable[[Path], Any]) -> list[Path]:
    """Kill a process by SIGKILL before its first change of the file system, another before its second, and so on.

    :param cases: where each attempt gets a folder of its own.
    :param prepare: makes the folder ready that each of these is a copy of.
    :param change: what the process does there.
    :return: the folders; in the last one nothing was left to interrupt.
    """
    prepared = cases / "prepared"
    prepared.mkdir()
    prepare(prepared)
    folders: list[Path] = []
    while True:
        folder = shutil.copytree(prepared, cases / f"{len(folders):03}", symlinks=True)
        pid = fork()
        if pid == 0:
            _do_and_die(change, folder, len(folders))
        folders.append(folder)
        status = status_of(pid)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"{folder}: the child failed"
            return folders
        assert os.WTERMSIG(status) == signal.SIGKILL, f"{folder}: the child hung"


def _do_and_die(change: Callable[[Path], Any], folder: Path, survived: int) -> None:
    left = survived

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        opened_to_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event not in CHANGES and not opened_to_write:
            return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    exchange = filesystem.exchange

    def audited_exchange(first: Path, second: Path) -> None:
        sys.audit("os.rename", first, second, -1)  # the C library knows no audit events
        exchange(first, second)

    code = 1
    try:
        filesystem.exchange = audited_exchange
        sys.addaudithook(on_event)
        change(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)
