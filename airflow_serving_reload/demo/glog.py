"""The log file of Paddle Serving's C++ server: Google's glog format, names of files included."""

from __future__ import annotations

import getpass
import os
import socket
import threading
from datetime import datetime
from pathlib import Path

_PROGRAM = "serving"


def log_folder() -> Path:
    """Return the folder of the log, which the C++ server takes from ``SERVING_LOG_PATH``.

    Like there, the variable is put in front of ``./log`` as it stands, so a folder has to end with a slash.
    """
    return Path(os.environ.get("SERVING_LOG_PATH", "") + "./log")


class GlogFile:
    """Writes ``serving.INFO``: a symlink to the log file of this process, as glog makes it.

    Each process starts a file of its own and turns the symlink over to it. The methods are called from any thread.

    :param folder: where the log goes; made where it is missing, its parent has to be there.
    :raises OSError: if the folder or the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        now = datetime.now().astimezone()
        host = socket.gethostname()
        name = f"{_PROGRAM}.{host}.{getpass.getuser()}.log.INFO.{now:%Y%m%d-%H%M%S}.{os.getpid()}"
        self._lock = threading.Lock()
        self._file = (folder / name).open("a", buffering=1, encoding="utf-8")
        self._file.write(
            f"Log file created at: {now:%Y/%m/%d %H:%M:%S}\n"
            f"Running on machine: {host}\n"
            "Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg\n"
        )
        link = folder / f"{_PROGRAM}.INFO"
        link.unlink(missing_ok=True)
        link.symlink_to(name)

    def info(self, where: str, message: str) -> None:
        """Write a line of severity INFO.

        :param where: source file and line that the line names, ``server.cpp:150``.
        :param message: one line of text.
        """
        self._write("I", where, message)

    def warning(self, where: str, message: str) -> None:
        """Write a line of severity WARNING, at which Paddle Serving reports its successes."""
        self._write("W", where, message)

    def error(self, where: str, message: str) -> None:
        """Write a line of severity ERROR."""
        self._write("E", where, message)

    def close(self) -> None:
        """Close the file; nothing may be written afterwards."""
        self._file.close()

    def _write(self, severity: str, where: str, message: str) -> None:
        with self._lock:
            now = datetime.now().astimezone()
            self._file.write(f"{severity}{now:%m%d %H:%M:%S.%f} {threading.get_native_id():5d} {where}] {message}\n")
