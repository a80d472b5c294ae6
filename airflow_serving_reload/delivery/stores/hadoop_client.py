"""The Hadoop client of this host: `hadoop fs` as a program that is waited for no longer than it may take."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import IO, cast
from xml.sax.saxutils import escape

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.delivery.streams import CHUNK, Readable

GUARD = Path(__file__).with_name("hadoop_guard.py")

SAID = 1 << 16
"""Bytes of what a client complains of that are read, from the end."""

BY_SIGNAL = 128
"""Exit statuses from here on tell of programs that were killed."""


class ClientFailed(Exception):
    """A client did not end well; its text is what it complained of."""


class ClientRefused(ClientFailed):
    """The client's command says what it has against it."""


class ClientOverdue(ClientFailed):
    """The client was ended because it took too long."""


class ClientBroken(ClientFailed):
    """The client does not get as far as its command."""


@dataclass(frozen=True, slots=True)
class HadoopClient:
    """How to run the Hadoop client.

    :param hadoop_bin: path of the program, the folder that has it as `bin/hadoop`, or its name in the PATH.
    :param fs_name: the file system, such as `hdfs://namenode:8020`; None for that of the client's own configuration.
    :param fs_ugi: `user,password`, as AFS wants it. It reaches the client by a file without a name in memory. Newer
        clients know no such password and go by the user alone.
    :param options: further configuration properties, as `hadoop fs -D` has them.
    :param timeout: seconds to wait for a call, or for the next piece of a file.
    """

    hadoop_bin: str = "hadoop"
    fs_name: str | None = None
    fs_ugi: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    timeout: float = 60

    def program(self) -> str:
        """Find the program.

        :raises Refused: there is none, or it may not be run.
        """
        places = [self.hadoop_bin]
        if "/" in self.hadoop_bin:
            places += [f"{self.hadoop_bin}/bin/hadoop", f"{self.hadoop_bin}/hadoop"]
        for place in places:
            if found := shutil.which(place):
                return str(Path(found).absolute())
        doing = f"running the Hadoop client {self.hadoop_bin!r}"
        if files := [place for place in places if Path(place).is_file()]:
            raise Refused(f"{doing}: {files[0]} is not executable; check its mode, and hadoop_bin")
        raise Refused(
            f"{doing}: there is no such program on this host; install the client, or set hadoop_bin to the path of the "
            "program or to the folder that has it as bin/hadoop"
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[Running]:
        """Run a command of `hadoop fs`; if the `with` block is left early it is ended with all its children."""
        with ExitStack() as stack:
            running = Running(self, stack, command)
            stack.callback(running.end)
            yield running

    def properties(self) -> dict[str, str]:
        """Give the configuration properties, those that have changed their name under both names."""
        properties = {name: str(value) for name, value in self.options.items()}
        if self.fs_name:
            properties |= {"fs.default.name": self.fs_name, "fs.defaultFS": self.fs_name}
        if self.fs_ugi:
            properties |= {"hadoop.job.ugi": self.fs_ugi}
        return properties

    def environment(self) -> dict[str, str]:
        """Give the environment: names of files in UTF-8, complaints in English, and the user for newer clients."""
        user = (self.fs_ugi or "").partition(",")[0]
        return {**os.environ, "LC_ALL": "C.UTF-8", **({"HADOOP_USER_NAME": user} if user else {})}

    def without_secrets(self, text: str) -> str:
        """Take the password out of what the client said."""
        for secret in (self.fs_ugi, (self.fs_ugi or "").partition(",")[2]):
            text = text.replace(secret, "***") if secret else text
        return text


class Running:
    """One run of the client, whose output is a stream, and whose input may be one.

    :param client: what is run.
    :param stack: closes what is opened here.
    :param command: of `hadoop fs`.
    """

    def __init__(self, client: HadoopClient, stack: ExitStack, command: tuple[str, ...]) -> None:
        self._client = client
        self._command = command[0].lstrip("-")
        program = client.program()
        settings = stack.enter_context(_in_memory(_site(client.properties())))
        self._complaints = stack.enter_context(_in_memory())
        watched, self._lifeline = _pipe(stack)
        taken, self._input = _pipe(stack)
        os.set_blocking(self._input.fileno(), False)
        given = (watched.fileno(), self._input.fileno(), settings.fileno())
        arguments = [program, "fs", "-conf", f"/proc/self/fd/{settings.fileno()}", *command]
        self._process = subprocess.Popen(  # noqa: S603 - there is no shell, and the program is what the connection says
            [sys.executable, "-IS", str(GUARD), str(given[0]), str(given[1]), *arguments],
            bufsize=0,
            stdin=taken,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            pass_fds=given,
            env=client.environment(),
            start_new_session=True,
        )
        for end in (watched, taken):
            end.close()
        self._output = stack.enter_context(cast("IO[bytes]", self._process.stdout))

    def read(self, size: int = -1, /) -> bytes:
        """Give what the client prints; the end only if it ended well.

        :raises ClientFailed: it did not, or took too long.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if not size:
            return b""
        self._wait(self._output, select.POLLIN)
        data = os.read(self._output.fileno(), min(size, CHUNK))
        if not data:
            self.finish()
        return data

    def send(self, source: Readable) -> None:
        """Send everything to the client and wait for its end; where the source fails, the client sees no end.

        :raises ClientFailed: it did not end well, or took too long.
        """
        try:
            for piece in iter(lambda: source.read(CHUNK), b""):
                left = memoryview(piece)
                while left:
                    self._wait(self._input, select.POLLOUT)
                    left = left[os.write(self._input.fileno(), left) :]
        except BrokenPipeError:
            self.finish()
            raise
        self._input.close()
        self._lifeline.write(b".")
        self.finish()

    def finish(self) -> None:
        """Wait for the client's end.

        :raises ClientFailed: it did not end well, or took too long.
        """
        try:
            status = self._process.wait(self._client.timeout)
        except subprocess.TimeoutExpired:
            raise self._overdue() from None
        if status:
            raise self._failed(status)

    def end(self) -> None:
        """Kill the client with all its children, if it has not ended."""
        self._lifeline.close()
        if self._process.wait() < 0:
            # the guard was killed: by itself, or by somebody who left the others alone
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _wait(self, stream: IO[bytes], event: int) -> None:
        poll = select.poll()
        poll.register(stream, event)
        if not poll.poll(self._client.timeout * 1000):
            raise self._overdue()

    def _overdue(self) -> ClientOverdue:
        return ClientOverdue(f"no answer within {self._client.timeout:g} s")

    def _failed(self, status: int) -> ClientFailed:
        lines = [line.strip() for line in self._said().splitlines() if line.strip()]
        # what the command says begins with its name; what Java and the libraries say does not
        if own := [line.lstrip("-") for line in lines if line.lstrip("-").startswith(f"{self._command}: ")]:
            return ClientRefused("\n".join(own))
        words = f"{' '.join(lines[-2:]) or 'nothing'} (exit status {status})"
        killed = status < 0 or status >= BY_SIGNAL or "insufficient memory" in words
        return ClientFailed(words) if killed else ClientBroken(words)

    def _said(self) -> str:
        # by position, because whoever writes there shares the one of the file
        size = os.fstat(self._complaints.fileno()).st_size
        said = os.pread(self._complaints.fileno(), SAID, max(0, size - SAID))
        return self._client.without_secrets(said.decode("utf-8", "replace"))


def _in_memory(content: bytes = b"") -> FileIO:
    """Give a file that has no name on any disk."""
    file = FileIO(os.memfd_create("hadoop"), "r+")
    file.write(content)
    return file


def _site(properties: Mapping[str, str]) -> bytes:
    """Give a file of settings, as Hadoop reads it: a command line would be everybody's to read."""
    entries = "".join(
        f"<property><name>{escape(name)}</name><value>{escape(value)}</value></property>\n"
        for name, value in properties.items()
    )
    return f"<configuration>\n{entries}</configuration>\n".encode()


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    reading, writing = os.pipe()
    return stack.enter_context(FileIO(reading, "r")), stack.enter_context(FileIO(writing, "w"))
