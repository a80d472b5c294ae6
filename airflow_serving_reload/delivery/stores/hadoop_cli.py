"""A store on HDFS or AFS, reached through the Hadoop client's `hadoop fs`."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.sax.saxutils import escape

from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.streams import CHUNK, Readable

MILLISECOND_NS = 1_000_000

GRACE = 5.0
"""Seconds that a client may take to clean up behind itself before it is killed."""

ABSENT = "No such file or directory"

NO_PERMISSION = ("Permission denied", "AccessControlException", "AuthenticationException", "is not allowed")

IMPOSSIBLE = (
    "Is a directory",
    "is a directory",
    "not a directory",
    "Illegal",
    "No FileSystem for scheme",
    "Unknown command",
)


@dataclass(frozen=True)
class HadoopClient:
    """The Hadoop client of this host.

    :param program: path of `hadoop`, or the folder that has it.
    :param fs_name: address of the file system, such as `hdfs://namenode:9000` or `afs://...`; None for the client's
        own configuration.
    :param fs_ugi: `user,password` as AFS wants it; never part of a command line.
    :param options: further configuration properties.
    :param timeout: seconds that one call, or the next piece of a stream, may take.
    """

    program: str
    fs_name: str | None = None
    fs_ugi: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 300.0

    def path(self) -> Path:
        """Find the program.

        :raises Refused: there is none.
        """
        program = Path(self.program)
        program = program / "hadoop" if program.is_dir() else program
        if not os.access(program, os.X_OK):
            raise Refused(f"running the Hadoop client: {program} is no program on this host; check hadoop_bin")
        return program

    def properties(self) -> dict[str, str]:
        """Give the configuration properties, under their old names and their new ones."""
        properties = dict(self.options)
        if self.fs_name:
            properties |= {"fs.default.name": self.fs_name, "fs.defaultFS": self.fs_name}
        if self.fs_ugi:
            properties |= {"hadoop.job.ugi": self.fs_ugi}
        return properties

    def without_secrets(self, text: str) -> str:
        """Take the password out of what the client printed."""
        if not self.fs_ugi:
            return text
        password = self.fs_ugi.partition(",")[2]
        text = text.replace(self.fs_ugi, "***")
        return text.replace(password, "***") if password else text

    @contextmanager
    def running(self, *command: str, writes: bool = False) -> Iterator[_Call]:
        """Run `hadoop fs` with a command; it is ended with all its children when the `with` block is left early.

        :param writes: whether bytes are to be sent to it.
        """
        with self._configuration() as configuration:
            arguments = ["-conf", str(configuration)] if configuration else []
            process = subprocess.Popen(  # noqa: S603 - no shell, and the program is what the connection names
                [str(self.path()), "fs", *arguments, *command],
                stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            with process:
                call = _Call(self, process)
                try:
                    yield call
                finally:
                    call.end()

    @contextmanager
    def _configuration(self) -> Iterator[Path | None]:
        """Write the properties where only this user can read them: a command line is everybody's to read."""
        properties = self.properties()
        if not properties:
            yield None
            return
        with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as file:
            entries = "".join(
                f"<property><name>{escape(name)}</name><value>{escape(value)}</value></property>"
                for name, value in properties.items()
            )
            file.write(f"<configuration>{entries}</configuration>")
            file.flush()
            yield Path(file.name)


class _Call:
    """One running client."""

    def __init__(self, client: HadoopClient, process: subprocess.Popen[bytes]) -> None:
        self._client = client
        self._process = process
        self._said: list[bytes] = []
        self._overdue = False
        self._deadline = time.monotonic() + client.timeout
        self._listener = threading.Thread(target=self._listen, name="hadoop-errors", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="hadoop-timeout", daemon=True)
        self._listener.start()
        self._watchdog.start()

    def read(self, size: int = -1, /) -> bytes:
        """Give what the client prints; the end only if it ended well."""
        self._deadline = time.monotonic() + self._client.timeout
        data = self._stream(self._process.stdout).read(size)
        if not data and size:
            self.finish()
        return data

    def send(self, source: Readable) -> None:
        """Send everything to the client; if the source fails, the client never sees an end."""
        target = self._stream(self._process.stdin)
        while chunk := source.read(CHUNK):
            self._deadline = time.monotonic() + self._client.timeout
            with suppress(BrokenPipeError):  # what the client has to say comes with its exit
                target.write(chunk)
                continue
            break
        with suppress(BrokenPipeError):
            target.close()

    def finish(self) -> None:
        """Wait for the client's end.

        :raises _Failed: it did not end well.
        """
        status = self._process.wait()
        self._listener.join()
        if self._overdue:
            raise _Failed(f"no answer for {self._client.timeout:g} s")
        if status:
            said = self._client.without_secrets(b"".join(self._said).decode("utf-8", "replace")).strip()
            raise _Failed(said or f"exit status {status}")

    def end(self) -> None:
        """End the client with its children, first kindly, so that it removes what it has half written."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(OSError):
                    stream.close()
        self._listener.join()
        self._watchdog.join()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        stream = self._stream(self._process.stderr)
        kept = 0
        while chunk := stream.read1(CHUNK):  # type: ignore[attr-defined]
            if kept < CHUNK:
                self._said.append(chunk)
                kept += len(chunk)

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(min(left, 1.0))
                return
        self._overdue = True
        self._signal(signal.SIGKILL)

    def _stream(self, stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise ValueError("the client was started without this stream")
        return stream


class _Failed(Exception):
    """The client did not end well; its words."""


class HadoopCliStore(Store):
    """Models and donefiles on the file system that a Hadoop client leads to.

    Each call starts a Java machine, which takes about a second. Looking again at a donefile whose time and length
    are the same is one call; only a new one is read.

    :param client: the client.
    """

    def __init__(self, client: HadoopClient) -> None:
        self._client = client
        self._contents: dict[tuple[str, FileFacts], bytes] = {}

    def describe(self, path: str) -> str:
        """Name the path as `hadoop fs` would."""
        return f"{(self._client.fs_name or 'hadoop fs:').rstrip('/')}{path}"

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except _Failed as failed:
            said = f"{doing}: the Hadoop client says: {_last_words(str(failed))}"
            if ABSENT in str(failed):
                raise NotThereYet(said) from None
            if any(word in str(failed) for word in NO_PERMISSION):
                raise Refused(f"{said}; check fs_ugi and what this user may do") from None
            if any(word in str(failed) for word in IMPOSSIBLE):
                raise Refused(f"{said}; check the path and fs_name") from None
            raise StoreUnreachable(said) from None
        except OSError as error:
            raise StoreUnreachable(f"{doing}: {error.strerror or error}") from error

    def _run(self, *command: str) -> str:
        with self._client.running(*command) as call:
            printed = b"".join(iter(lambda: call.read(CHUNK), b""))
        return printed.decode("utf-8", "replace")

    def _stat(self, path: str) -> FileFacts:
        kind, size, mtime = self._run("-stat", "%F|%b|%Y", _literally(path)).strip().rsplit("|", 2)
        if kind == "directory":
            raise _Failed(f"{path}: Is a directory")
        return FileFacts(size=int(size), mtime_ns=int(mtime) * MILLISECOND_NS, resolution_ns=MILLISECOND_NS)

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        facts = self._stat(path)
        if facts.size == 0:
            yield Opened(facts, _Nothing())
            return
        with self._client.running("-cat", _literally(path)) as call:
            yield Opened(facts, call)

    def _list(self, folder: str) -> list[Entry] | None:
        lines = [line for line in self._run("-ls", _literally(folder)).splitlines() if line[:1] in "-d"]
        fields = [line.split(maxsplit=7) for line in lines]
        if len(fields) == 1 and _name(fields[0][7], folder) is None:
            return None
        return [Entry(name, row[0].startswith("d")) for row in fields if (name := _name(row[7], folder))]

    def _write(self, path: str, source: Readable) -> None:
        folder = path.rpartition("/")[0] or "/"
        with suppress(_Failed):
            self._run("-mkdir", "-p", folder)
        with self._client.running("-put", "-f", "-", path, writes=True) as call:
            call.send(source)
            call.finish()

    def _can_rename(self, folder: str) -> bool:  # noqa: ARG002
        """Leave it to the client: `-put` itself writes to a temporary name, and renames at the end."""
        return False

    def _rename(self, source: str, target: str) -> None:
        self._run("-mv", _literally(source), target)

    def _remove(self, path: str) -> None:
        with suppress(_Failed):
            self._run("-rm", "-skipTrash", _literally(path))


class _Nothing:
    def read(self, _size: int = -1, /) -> bytes:
        return b""


def _literally(path: str) -> str:
    """Keep the client from taking a character of a name for a pattern."""
    return "".join(f"\\{letter}" if letter in "\\*?[]{}" else letter for letter in path)


def _name(listed: str, folder: str) -> str | None:
    """Give the name below the folder; None if it is the folder's own path, as a listed file is."""
    path = listed.partition("://")[2].partition("/")[2] if "://" in listed else listed
    name = f"/{path.lstrip('/')}".removeprefix(f"{folder.rstrip('/')}/")
    return name if "/" not in name else None


def _last_words(said: str) -> str:
    """Find what the client says itself, behind the warnings of its parts."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("\tat ", "SLF4J", "WARNING"))]
    return lines[-1] if lines else said
