"""The ways to real servers that the campaign breaks: HTTP to nginx, FTP to vsftpd, WebHDFS to an HDFS."""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, cast

from airflow_serving_reload.delivery.stores.base import Store
from airflow_serving_reload.delivery.stores.parallel import Parallel
from tests.contract.answers import answer
from tests.contract.bench import PASSWORD, USER, Address
from tests.contract.hadoop import Hdfs
from tests.contract.hadoop_front import Front

from .breaking import BreakingProxy, Fault, FtpBreakingProxy, Kind

BUSY_SECONDS = 1
"""After how long servers that say so want to be asked again."""


@dataclass(frozen=True)
class Spot:
    """Where an answer breaks; the parameters are those of `Fault`."""

    request: bytes
    at: int | bytes = b""
    after: bytes = b""

    def fault(self, kind: Kind, times: float = 1) -> Fault:
        """Let it break there."""
        return Fault(kind, self.request, self.at, self.after, times=times)


@dataclass(frozen=True)
class Busy:
    """An answer by which a server says that it is busy.

    :param reply: the answer.
    :param tells_when: whether it says when to come again.
    :param hangs_up: whether the server ends the connection then.
    """

    reply: bytes
    tells_when: bool = False
    hangs_up: bool = True

    def fault(self, request: bytes) -> Fault:
        """Let it be said to a request."""
        return Fault("say", request, reply=self.reply, hang_up=self.hangs_up)


WHEN = f"Retry-After: {BUSY_SECONDS}"

BUSY_HTTP = {
    "500": Busy(answer("500 Internal Server Error", "Content-Length: 0")),
    "503": Busy(answer("503 Service Unavailable", "Content-Length: 0", WHEN), tells_when=True),
    "429": Busy(answer("429 Too Many Requests", "Content-Length: 0", WHEN), tells_when=True),
}


class Transport(ABC):
    """A way to a server.

    :cvar name: that of the connection type, or what tells it from another one of the same type.
    :cvar short_timeout: seconds within which its server, which has more to do besides, always answers.
    :cvar at_once: cases that run at the same time; most of them wait most of the time.
    :cvar connection: fields of the connection, but for type, host and port.
    :cvar busy: how the server says that it is.
    :cvar length_apart: whether the length of a file is told by another answer than the one with its bytes.
    :cvar in_parts: whether an archive comes by several connections, of which no one can say which is where and when.
    :cvar root: folder of the server below which everything is.
    """

    name: ClassVar[str]
    short_timeout: ClassVar[float] = 1.0
    at_once: ClassVar[int] = 8
    connection: ClassVar[Mapping[str, str]] = {}
    busy: ClassVar[Mapping[str, Busy]] = BUSY_HTTP
    length_apart: ClassVar[bool] = True
    in_parts: ClassVar[bool] = False
    root: ClassVar[str] = ""

    @abstractmethod
    def put(self, path: str, content: bytes, mtime: int) -> None:
        """Make or replace a file, with a time in seconds since the epoch."""

    @abstractmethod
    def remove(self, folder: str) -> None:
        """Remove a folder."""

    @abstractmethod
    @contextmanager
    def broken(self, faults: Sequence[Fault], counted: bytes) -> Iterator[BreakingProxy]:
        """Run a proxy before the server."""

    @abstractmethod
    def reading(self, name: str) -> bytes:
        """Give the pattern of the request whose answer has the bytes of a file."""

    @abstractmethod
    def heads(self, name: str, *, empty: bool = False) -> dict[str, Spot]:
        """Give spots in what is said of a file, in the order in which it is said, beside its bytes.

        :param empty: whether it has none.
        """

    @property
    def conn_type(self) -> str:
        """The type of the connection."""
        return self.name

    def bodies(self, model: str, size: int) -> dict[str, Spot]:
        """Give spots in an archive."""
        places = {"first byte": 0, "middle": size // 2, "last byte": size - 1}
        return {f"{place} of the archive": Spot(self.reading(model), at) for place, at in places.items()}

    def open(self, address: Address, timeout: float) -> Store:
        """Open the store by its connection, without pauses.

        :param timeout: seconds that it waits for an answer.
        """
        from airflow.sdk import Connection

        fields = {"host": address.host, "port": address.port, "extra": json.dumps({"timeout": timeout})}
        connection = Connection(conn_id="store", conn_type=self.conn_type, **self.connection, **fields)  # type: ignore[arg-type]
        store = cast(
            Store, import_module(f"airflow_serving_reload.connections.{self.conn_type}").open_store(connection)
        )
        store.resume_pauses = (0, 0, 0)
        return store


class _OnFolder(Transport):
    """A server of a folder of this host.

    :param folder: what it serves.
    :param address: where it listens.
    """

    proxy: ClassVar[type[BreakingProxy]]

    def __init__(self, folder: Path, address: Address) -> None:
        self._folder = folder
        self._address = address

    def put(self, path: str, content: bytes, mtime: int) -> None:
        """Make or replace a file."""
        target = self._folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}")
        beside.write_bytes(content)
        os.utime(beside, (mtime, mtime))
        beside.replace(target)

    def remove(self, folder: str) -> None:
        """Remove a folder."""
        shutil.rmtree(self._folder / folder.lstrip("/"))

    @contextmanager
    def broken(self, faults: Sequence[Fault], counted: bytes) -> Iterator[BreakingProxy]:
        """Run a proxy before the server."""
        with self.proxy(self._address, faults, counted).running() as proxy:
            yield proxy


class Http(_OnFolder):
    """HTTP."""

    name = "http"
    proxy = BreakingProxy
    length_apart = False

    def reading(self, name: str) -> bytes:
        """Give the pattern of the request whose answer has the bytes of a file."""
        return b"^GET .*/" + name.encode()

    def heads(self, name: str, *, empty: bool = False) -> dict[str, Spot]:
        """Give spots in what is said of a file."""
        places = {"answer": b"", "status": b"^HTTP/1.1 ", "length": b"Content-Length: ", "time": b"Last-Modified: "}
        return {place: Spot(self.reading(name), words) for place, words in places.items()}


class HttpInParts(Http):
    """HTTP from a server whose single streams are slow, so that archives come in parts, and these break."""

    name = "http in parts"
    conn_type = "http"
    in_parts = True
    root = "/slow"
    parallel = Parallel(4, part_bytes=1 << 17, ahead_bytes=1 << 20, slow_seconds=0)

    def bodies(self, model: str, size: int) -> dict[str, Spot]:
        """Give spots in the first part; before it the single stream is asked for."""
        last = self.parallel.part_bytes - 1
        places = {"first byte": 0, "middle": last // 2, "last byte": last}
        reading = self.reading(model)
        return {f"{place} of a part of the archive": Spot(reading, at, reading) for place, at in places.items()}

    def open(self, address: Address, timeout: float) -> Store:
        """Open the store by its connection, without pauses."""
        store = super().open(address, timeout)
        store.parallel = self.parallel
        return store


class Ftp(_OnFolder):
    """FTP."""

    name = "ftp"
    proxy = FtpBreakingProxy
    connection: ClassVar = {"login": USER, "password": PASSWORD}
    busy: ClassVar = {"421": Busy(b"421 Going down.\r\n"), "450": Busy(b"450 Not now.\r\n", hangs_up=False)}

    def reading(self, name: str) -> bytes:
        """Give the pattern of the request whose answer has the bytes of a file."""
        return b"^RETR .*/" + name.encode()

    def heads(self, name: str, *, empty: bool = False) -> dict[str, Spot]:
        """Give spots in what is said of a file."""
        file, reading = name.encode(), self.reading(name)
        return {
            "size": Spot(b"^SIZE .*/" + file, b"213 "),
            "time": Spot(b"^MDTM .*/" + file, b"213 "),
            "answer": Spot(reading),
            "226": Spot(reading, b"226 "),
        }


class WebHdfs(Transport):
    """WebHDFS: the NameNode tells the facts, and sends whoever wants the bytes to the DataNode.

    :param hdfs: the nodes.
    """

    name = "webhdfs"
    # where several nodes have to work for each answer, on few processors
    short_timeout = 2.0
    at_once = 4
    connection: ClassVar = {"login": USER}

    def __init__(self, hdfs: Hdfs) -> None:
        self._hdfs = hdfs

    def put(self, path: str, content: bytes, mtime: int) -> None:
        """Make or replace a file."""
        administrator, beside = self._hdfs.administrator, f"{path}.beside"
        administrator.write(beside, content)
        administrator.set_times(beside, modification_time=mtime * 1000)
        administrator._rename(beside, destination=path, renameoptions="OVERWRITE")

    def remove(self, folder: str) -> None:
        """Remove a folder."""
        self._hdfs.administrator.delete(folder, recursive=True)

    @contextmanager
    def broken(self, faults: Sequence[Fault], counted: bytes) -> Iterator[BreakingProxy]:
        """Run a proxy before the server."""
        with Front(self._hdfs).running() as front, BreakingProxy(front.address, faults, counted).running() as proxy:
            front.seen_as = proxy.address
            yield proxy

    def reading(self, name: str) -> bytes:
        """Give the pattern of the request whose answer has the bytes of a file."""
        return b"^GET .*/" + name.encode() + rb".*namenoderpcaddress="

    def heads(self, name: str, *, empty: bool = False) -> dict[str, Spot]:
        """Give spots in what is said of a file."""
        facts = b"^GET .*/" + name.encode() + rb"\?.*op=GETFILESTATUS"
        redirection = b"^GET .*/" + name.encode() + rb"\?(?!.*namenoderpcaddress).*op=OPEN"
        told = {"facts": Spot(facts), "status": Spot(facts, b"^HTTP/1.1 "), "middle of the facts": Spot(facts, 100)}
        # who is told that there are no bytes does not ask for them
        return (
            told
            if empty
            else told
            | {
                "redirection": Spot(redirection),
                "target": Spot(redirection, b"Location: http://localhost:....."),
                "answer": Spot(self.reading(name)),
            }
        )
