"""The contract over pyftpdlib, in the variants that a store may meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from .bench import USER, Offers
from .certificates import Authority
from .ftp_servers import READING, FtpBench, PyFtpServer, WindowsFolder, tls_handler
from .proxy import CuttingProxy
from .suite import NetworkStoreContract

FULL = Offers(lists=True, uploads=True, renames=True, ranges=True, forbids=True, asks_password=True)


class PyFtpBench(FtpBench):
    """A store on a pyftpdlib."""

    def __init__(self, server: PyFtpServer, authority: Authority | None = None) -> None:
        super().__init__(server.folder, server.address, authority=authority)
        self._server = server

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of a file in a folder from which nothing may be read."""
        path = "/forbidden/model"
        self.put(path, b"secret")
        self._server.authorizer.override_perm(USER, str(self.folder / "forbidden"), READING.replace("r", ""))
        yield path


class OverFtp(NetworkStoreContract):
    """The contract over an FTP server."""

    offers = FULL

    @staticmethod
    def proxy(bench: FtpBench, **arguments: Any) -> CuttingProxy:
        """Make a proxy that cuts sessions."""
        return bench.proxy(**arguments)


@pytest.fixture(scope="session")
def with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyFtpServer]:
    """Start a server with everything that it has."""
    with PyFtpServer(tmp_path_factory.mktemp("ftp") / "files").running() as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make what signs the certificate of the server with TLS."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def with_tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyFtpServer]:
    """Start a server that takes nothing but TLS, for logins and for data."""
    folder = tmp_path_factory.mktemp("ftps")
    with PyFtpServer(folder / "files", **tls_handler(authority, folder)).running() as server:
        yield server


@pytest.fixture(scope="session")
def with_machine_listings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyFtpServer]:
    """Start a server that tells sizes and times only in MLST and MLSD, and sends files only whole."""
    folder = tmp_path_factory.mktemp("ftp-machine") / "files"
    with PyFtpServer(folder, without=("SIZE", "MDTM", "REST")).running() as server:
        yield server


@pytest.fixture(scope="session")
def like_windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PyFtpServer]:
    """Start a server that lists as Windows does, and whose renames replace no file."""
    folder = tmp_path_factory.mktemp("ftp-windows") / "files"
    with PyFtpServer(folder, without=("MLST", "MLSD"), abstracted_fs=WindowsFolder).running() as server:
        yield server


class TestWithPassword(OverFtp):
    """pyftpdlib as it is."""

    @pytest.fixture
    def bench(self, with_password: PyFtpServer) -> PyFtpBench:
        """Give a store on the emptied folder."""
        return PyFtpBench(with_password)


class TestTls(OverFtp):
    """pyftpdlib behind TLS, by an authority that the client was told of."""

    @pytest.fixture
    def bench(self, with_tls: PyFtpServer, authority: Authority) -> PyFtpBench:
        """Give a store on the emptied folder."""
        return PyFtpBench(with_tls, authority)


class TestMachineListings(OverFtp):
    """pyftpdlib without SIZE, MDTM and REST."""

    offers = replace(FULL, ranges=False)

    @pytest.fixture
    def bench(self, with_machine_listings: PyFtpServer) -> PyFtpBench:
        """Give a store on the emptied folder."""
        return PyFtpBench(with_machine_listings)


class TestLikeWindows(OverFtp):
    """pyftpdlib with the listings and the renames of Windows."""

    @pytest.fixture
    def bench(self, like_windows: PyFtpServer) -> PyFtpBench:
        """Give a store on the emptied folder."""
        return PyFtpBench(like_windows)
