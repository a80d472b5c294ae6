"""What the suite works on: a store, and a way to the same files around the store."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import requests

from airflow_serving_reload.delivery.stores.base import Store
from airflow_serving_reload.delivery.stores.http import HttpStore

USER = "trainer"
PASSWORD = "correct-horse"
WRONG_PASSWORD = "battery-staple"


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What a server offers, so that the suite knows what to expect of its store.

    :param lists: whether folders can be listed.
    :param lists_hidden: whether listings have the names that begin with a dot.
    :param scans: whether listings tell the times of files.
    :param uploads: whether files can be written.
    :param renames: whether files can be renamed, so that uploads appear whole.
    :param ranges: whether a transfer that broke off goes on where it was.
    :param tells_times: whether the store tells when a file was modified.
    :param tells_uploads_apart: whether two uploads in one second never look the same.
    :param forbids: whether there can be a file that the store may not read.
    :param asks_password: whether the server wants one.
    :param keeps_connections: whether the server takes more than one question by each.
    :param no_names_with: characters that no name on this server can have.
    """

    lists: bool
    uploads: bool
    renames: bool
    ranges: bool
    tells_times: bool = True
    tells_uploads_apart: bool = False
    lists_hidden: bool = True
    scans: bool = True
    forbids: bool = False
    asks_password: bool = False
    keeps_connections: bool = True
    no_names_with: str = ""

    def allow(self, name: str) -> bool:
        """Whether a file can have this name."""
        return not set(name) & set(self.no_names_with)


class Bench(ABC):
    """A store under test, empty at first, and the same files by another way.

    :ivar store: the store; its pauses before going on with a broken transfer are zero.
    """

    store: Store

    @abstractmethod
    def put(self, path: str, content: bytes = b"", *, mtime: float | None = None) -> None:
        """Make or replace a file, in one step.

        :param mtime: its modification time, in seconds since the epoch; None for now.
        """

    @abstractmethod
    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file."""

    @abstractmethod
    def content(self, path: str) -> bytes | None:
        """Give the content of a file; None if there is none."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Give the names of everything in a folder, hidden ones too, in order."""

    def forbidden(self) -> AbstractContextManager[str]:
        """Give, until the end of the `with` block, the path of a file that the store may not read."""
        raise NotImplementedError


class NetworkBench(Bench):
    """A store behind a network.

    :ivar address: where its server listens.
    :ivar connections_without_files: how many connections a client makes before the first one that carries a file.
    """

    address: Address
    connections_without_files: int = 0

    @abstractmethod
    def connect(self, address: Address | None = None, *, password: str | None = None) -> Store:
        """Open another store on the same files, without pauses.

        :param address: a proxy, or nobody; None for the server.
        :param password: None for the right one.
        """


class FolderBench(Bench):
    """A store whose files lie in a folder of this host.

    :param folder: the folder; emptied first.
    :param store: the store over it.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.folder = folder
        self.store = store

    def _local(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def put(self, path: str, content: bytes = b"", *, mtime: float | None = None) -> None:
        """Make or replace a file, in one step."""
        local = self._local(path)
        local.parent.mkdir(parents=True, exist_ok=True)
        beside = self.folder.with_name(f"{self.folder.name}.beside")
        beside.write_bytes(content)
        if mtime is not None:
            os.utime(beside, (mtime, mtime))
        beside.replace(local)

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it."""
        self._local(path).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._local(path).unlink()

    def content(self, path: str) -> bytes | None:
        """Give the content of a file; None if there is none."""
        local = self._local(path)
        return local.read_bytes() if local.exists() else None

    def names(self, folder: str) -> list[str]:
        """Give the names of everything in a folder, hidden ones too, in order."""
        local = self._local(folder)
        return sorted(entry.name for entry in local.iterdir()) if local.exists() else []


class HttpBench(FolderBench, NetworkBench):
    """A store over HTTP on a folder of this host.

    :param folder: what the server serves.
    :param address: where it listens.
    :param prefix: path of the folder on the server.
    :param certificate_authority: file with the certificate that signs the server's, if it speaks TLS.
    :param asks_password: whether to log in.
    """

    def __init__(
        self,
        folder: Path,
        address: Address,
        prefix: str = "",
        *,
        certificate_authority: Path | None = None,
        asks_password: bool = False,
    ) -> None:
        self.address = address
        self._prefix = prefix
        self._authority = certificate_authority
        self._asks_password = asks_password
        super().__init__(folder, self.connect())

    def connect(self, address: Address | None = None, *, password: str | None = None) -> HttpStore:
        """Open another store on the same files, without pauses."""
        session = requests.Session()
        # the proxies of whoever runs the tests have no business between two ends of one host
        session.trust_env = False
        if self._asks_password:
            session.auth = (USER, password or PASSWORD)
        scheme = "http"
        if self._authority:
            scheme, session.verify = "https", str(self._authority)
        host, port = address or self.address
        store = HttpStore(session, f"{scheme}://{host}:{port}{self._prefix}", timeout=(10, 20))
        store.resume_pauses = (0, 0, 0)
        return store
