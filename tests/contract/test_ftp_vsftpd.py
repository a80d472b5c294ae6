"""The contract over vsftpd, which knows neither MLSD nor MLST, with and without TLS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from airflow_serving_reload.demo.processes import Processes

from .certificates import Authority
from .ftp_servers import FtpBench, Vsftpd
from .test_ftp_pyftpdlib import OverFtp


class VsftpdBench(FtpBench):
    """A store on a vsftpd."""

    def __init__(self, server: Vsftpd, authority: Authority | None = None) -> None:
        super().__init__(server.folder / "files", server.address, authority=authority)

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of a file that its permissions close."""
        path = "/models/forbidden"
        self.put(path, b"secret")
        self._local(path).chmod(0)
        yield path


@pytest.fixture(autouse=True)
def _for_all() -> Iterator[None]:
    """Let the server, which is another user, change what the tests make."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def vsftpd(processes: Processes) -> Iterator[Vsftpd]:
    """Start a vsftpd."""
    with Vsftpd.running(processes) as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make what signs the certificate of the server with TLS."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def vsftpd_with_tls(processes: Processes, authority: Authority) -> Iterator[Vsftpd]:
    """Start a vsftpd that takes nothing but TLS, and for data only the session of the control connection."""
    with Vsftpd.running(processes, authority) as server:
        yield server


class TestVsftpd(OverFtp):
    """vsftpd."""

    @pytest.fixture
    def bench(self, vsftpd: Vsftpd) -> VsftpdBench:
        """Give a store on the emptied folder."""
        return VsftpdBench(vsftpd)


class TestVsftpdTls(OverFtp):
    """vsftpd behind TLS, by an authority that the client was told of."""

    @pytest.fixture
    def bench(self, vsftpd_with_tls: Vsftpd, authority: Authority) -> VsftpdBench:
        """Give a store on the emptied folder."""
        return VsftpdBench(vsftpd_with_tls, authority)
