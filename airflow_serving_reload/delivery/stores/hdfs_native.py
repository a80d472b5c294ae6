"""A store in HDFS by its native protocol: answers of the NameNode in a millisecond, bytes from the DataNodes."""

from __future__ import annotations

import getpass
import io
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree as ET

from hdfs_native import AsyncClient, FileStatus, WriteOptions

from airflow_serving_reload.delivery.errors import DeliveryError, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import MILLISECOND_NS, Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.stores.hadoop_faults import fault_of
from airflow_serving_reload.delivery.stores.hdfs_loop import HdfsLoop
from airflow_serving_reload.delivery.streams import CHUNK, Readable

NO_RETRIES = {"dfs.client.failover.max.attempts": "0"}
"""What keeps the library from trying again for minutes, and from its fault of breaking down when it pauses to do so."""

SETTINGS_AT_FAULT = frozenset(
    {"GSSAPIError", "InvalidArgument", "InvalidPath", "NoSASLMechanism", "SASLError", "UrlParseError", "XmlParseError"}
)
"""The library's words for what a retry cannot mend."""

Result = TypeVar("Result")


class NativeHdfsStore(Store):
    """Models and donefiles of an HDFS.

    :param clients: opened by the caller, one for each NameNode; one that is down or stands by is passed over.
    :param name: what to call the file system, such as `hdfs://namenode:8020`.
    :param timeout: seconds to wait for each answer.
    """

    def __init__(self, clients: Sequence[AsyncClient], name: str, *, timeout: float = 60) -> None:
        self._clients = tuple(clients)
        self._name = name
        self._timeout = timeout
        self._loop = HdfsLoop(timeout)

    def close(self) -> None:
        """Let go of the connections; who waits for an answer in another thread is told so."""
        self._loop.close()

    def describe(self, path: str) -> str:
        """Name the file system and the path."""
        return self._name + path

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except CancelledError:
            raise StoreUnreachable(f"{doing}: the store was closed meanwhile; open it again") from None
        except FileNotFoundError as error:
            raise fault_of(doing, "FileNotFoundException", str(error)) from None
        except FileExistsError as error:
            raise fault_of(doing, "FileAlreadyExistsException", str(error)) from None
        except IsADirectoryError as error:
            raise Refused(f"{doing}: it is a folder; name a file") from error
        except OSError as error:
            said = f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else error
            raise StoreUnreachable(
                f"{doing}: {said}; check the connection's host and port, and whether NameNode and DataNodes run"
            ) from error
        except NotImplementedError as error:
            raise Refused(f"{doing}: the native protocol's client cannot do it ({error}); use WebHDFS") from error
        except RuntimeError as error:
            raise _as_fault(doing, error) from error

    def _call(self, operation: Callable[[AsyncClient], Awaitable[Result]]) -> Result:
        """Ask the NameNode that answered last, and then the others."""
        *others, last = self._clients
        for client in others:
            try:
                return self._loop.wait(partial(operation, client))
            except (OSError, RuntimeError) as error:
                if not _is_of_the_namenode(error):
                    raise
                # in one step, since the parts of a file are asked for by several threads
                self._clients = (*(other for other in self._clients if other is not client), client)
        return self._loop.wait(partial(operation, last))

    def _status(self, path: str) -> FileStatus:
        return self._call(lambda client: client.get_file_info(path))

    def _stat(self, path: str) -> FileFacts:
        status = self._status(path)
        if status.isdir:
            raise IsADirectoryError(path)
        return _facts(status)

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        """Open a file; since its bytes come without its facts, these are asked for before and behind."""
        facts = self._stat(path)
        while offset < (facts.size or 0):
            file = self._call(lambda client: client.read(path))
            before, facts = facts, self._stat(path)
            if facts == before:
                packets = file.read_range_stream(offset, len(file) - offset)
                yield Opened(facts, _Reader(packets, self._loop.wait), offset)
                return
        yield Opened(facts, io.BytesIO(), offset)

    def _can_part(self, facts: FileFacts) -> bool:
        return True

    @contextmanager
    def _open_part(self, path: str, first: int, end: int, expected: FileFacts) -> Iterator[Opened]:
        """Open a part; that its facts are the expected ones behind it proves it, since they were before."""
        file = self._call(lambda client: client.read(path))
        yield Opened(self._stat(path), _Reader(file.read_range_stream(first, end - first), self._loop.wait), first)

    def _list(self, folder: str) -> list[Entry] | None:
        async def entries(client: AsyncClient) -> list[Entry]:
            return [Entry(status.path.rpartition("/")[2], status.isdir) async for status in client.list_status(folder)]

        if not self._status(folder).isdir:
            return None
        return self._call(entries)

    def _scan(self, folder: str) -> Mapping[str, FileFacts]:
        async def statuses(client: AsyncClient) -> list[FileStatus]:
            return [status async for status in client.list_status(folder)]

        listed = self._call(statuses)
        return {status.path.rpartition("/")[2]: _facts(status) for status in listed if not status.isdir}

    def _write(self, path: str, source: Readable) -> None:
        options = WriteOptions(overwrite=True, create_parent=True)
        writer = self._call(lambda client: client.create(path, options))
        # a writer that is not closed leaves a file that is not whole, which the caller removes
        while chunk := source.read(CHUNK):
            self._loop.wait(partial(writer.write, chunk))
        self._loop.wait(writer.close)

    def _rename(self, source: str, target: str) -> None:
        try:
            self._call(lambda client: client.rename(source, target, overwrite=True))
        except RuntimeError:
            if self._is_folder(target):
                raise IsADirectoryError(target) from None
            raise

    def _is_folder(self, path: str) -> bool:
        try:
            return self._status(path).isdir
        except FileNotFoundError:
            return False

    def _remove(self, path: str) -> None:
        if self._is_folder(path):
            raise IsADirectoryError(path)
        self._call(lambda client: client.delete(path))


def _facts(status: FileStatus) -> FileFacts:
    return FileFacts(
        size=status.length, mtime_ns=status.modification_time * MILLISECOND_NS, resolution_ns=MILLISECOND_NS
    )


def open_clients(
    hosts: Sequence[str],
    config: Mapping[str, str] | None = None,
    config_dir: str | None = None,
    **credentials: str | None,
) -> list[AsyncClient]:
    """Open a client for each NameNode.

    :param hosts: NameNodes with their ports, or nameservices that the configuration explains.
    :param config: Hadoop's settings by their names; these count more than those of the folder.
    :param config_dir: folder with `core-site.xml` and `hdfs-site.xml`; None for that of HADOOP_CONF_DIR, if it is set.
    :param credentials: `kerberos_principal`, `kerberos_keytab` and `kerberos_cache`.
    :raises Refused: a setting is no good.
    """
    folder = config_dir or os.environ.get("HADOOP_CONF_DIR")
    settings = {**(_read_settings(Path(folder)) if folder else {}), **(config or {}), **NO_RETRIES}
    namenodes = [namenode for host in hosts for namenode in _namenodes(host, settings)]
    try:
        return [AsyncClient(f"hdfs://{namenode}", settings, **credentials) for namenode in namenodes]
    except RuntimeError as error:
        raise Refused(f"opening {', '.join(namenodes)}: {error}; check the connection's host and settings") from error


def _namenodes(host: str, settings: Mapping[str, str]) -> list[str]:
    """Give the NameNodes that a host stands for."""
    if re.search(r":\d+$", host):
        return [host]
    names = settings.get(f"dfs.ha.namenodes.{host}", "").split(",")
    found = [settings.get(f"dfs.namenode.rpc-address.{host}.{name.strip()}") for name in names]
    if None in found:
        raise Refused(
            f"opening {host}: it has no port, and the configuration does not explain it as a nameservice; give the "
            "connection the NameNode's port, or set config_dir in its extra to a folder with hdfs-site.xml"
        )
    return [namenode for namenode in found if namenode]


def _read_settings(folder: Path) -> dict[str, str]:
    settings: dict[str, str] = {}
    for file in (folder / "core-site.xml", folder / "hdfs-site.xml"):
        if not file.exists():
            continue
        try:
            root = ET.parse(file).getroot()  # noqa: S314 - the administrator's own file
        except (OSError, ET.ParseError) as error:
            raise Refused(f"reading {file}: {error}; check config_dir in the connection's extra") from error
        settings |= {entry.findtext("name", ""): entry.findtext("value", "") for entry in root.iter("property")}
    return settings


def user_of_process() -> str:
    """Give the user that a cluster without Kerberos believes this process to be."""
    return os.environ.get("HADOOP_USER_NAME") or getpass.getuser()


class _Reader:
    """The bytes of a stream of packets, many packets at a time."""

    def __init__(self, packets: AsyncIterator[bytes], wait: Callable[[Callable[[], Awaitable[bytes]]], bytes]) -> None:
        self._packets = packets
        self._wait = wait
        self._left = b""

    def read(self, size: int = -1, /) -> bytes:
        if len(self._left) < size and not self._left:
            self._left = self._wait(partial(self._gather, size))
        data, self._left = self._left[:size], self._left[size:]
        return data

    async def _gather(self, size: int) -> bytes:
        gathered = bytearray()
        while len(gathered) < size and (packet := await anext(self._packets, b"")):
            gathered += packet
        return bytes(gathered)


EXCEPTION = re.compile(r'(\w+)(?:\("([\w.$]+)", "(.*)"\)|\((.*)\))?', re.DOTALL)
"""The library's faults, as text alone tells them apart: its own, or one that carries an exception of Hadoop."""


def _is_of_the_namenode(error: Exception) -> bool:
    """Whether another NameNode may do better."""
    if isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError):
        return False
    return isinstance(error, OSError) or "StandbyException" in str(error) or "RetriableException" in str(error)


def _as_fault(doing: str, error: RuntimeError) -> DeliveryError:
    told = EXCEPTION.fullmatch(str(error))
    if told is not None and told[2]:
        return fault_of(doing, told[2], told[3].partition("\\n")[0].replace('\\"', '"'))
    # the library goes on with all that it knows of its DataNodes
    words = str(error).partition(": [")[0].replace('("', ": ").removesuffix('")')
    if told is not None and told[1] in SETTINGS_AT_FAULT:
        return Refused(f"{doing}: {words}; check the connection's host, port and settings")
    return StoreUnreachable(f"{doing}: {words}; check whether the DataNodes run, and try again")
