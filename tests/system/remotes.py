"""The three kinds of remote that Paddle Serving's document names, for real, and models that get there without us."""

from __future__ import annotations

import ftplib
import getpass
import io
import os
import shutil
import subprocess
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from airflow_serving_reload.demo.processes import Processes
from tests.contract.bench import PASSWORD, USER
from tests.contract.ftp_servers import PyFtpServer
from tests.contract.hadoop import Hdfs
from tests.contract.nginx import Nginx
from tests.requirements import require_program

MODEL = "uci_housing_model"
ARCHIVE = "uci_housing.tar.gz"
DONEFILE = "donefile"

VERSIONS = ("initial", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8")

IDLE_SECONDS = 0.8
"""After so long without a command the FTP server hangs up, once it was started again."""


@cache
def files_of(version: str) -> dict[str, bytes]:
    """Make the files of a model, which nothing can compress."""
    sizes = {"model.json": 2_000, "model.pdiparams": 200_000}
    return {name: Random(f"{version} {name}").randbytes(size) for name, size in sizes.items()}


def write_model(folder: Path, version: str) -> Path:
    """Write a model into a folder of its own below the given one."""
    model = folder / MODEL
    model.mkdir(parents=True)
    for name, content in files_of(version).items():
        (model / name).write_bytes(content)
    return model


def whole_version_in(model: Path) -> str | None:
    """Tell which version lies in a model's folder; None if it is not whole, or is a mixture."""
    # a link may lead somewhere else already at the next file
    model = model.resolve()
    found = {name: (model / name).read_bytes() for name in files_of("initial") if (model / name).exists()}
    return next((version for version in VERSIONS if files_of(version) == found), None)


def packed(version: str) -> bytes:
    """Pack a model as the document's training script does."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files_of(version).items():
            member = tarfile.TarInfo(f"{MODEL}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Remote(ABC):
    """A server with models, as training without this provider uses it.

    :ivar connection: fields of our connection to it.
    :ivar options: the options of `monitor.py` that take the place of the connection.
    """

    kind: ClassVar[str]
    connection: dict[str, Any]
    options: dict[str, Any]

    @abstractmethod
    def put(self, name: str, content: bytes, moment: float) -> None:
        """Make or replace a file, in one step and with a modification time, in seconds since the epoch."""

    @abstractmethod
    def push(self, file: Path) -> None:
        """Bring a file there in the plain way, which is not one step."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file."""

    @abstractmethod
    def stopped(self) -> AbstractContextManager[None]:
        """End the server until the end of the `with` block; it then answers again at the same address."""

    def upload(self, version: str, moment: float, *, share: float = 1.0) -> None:
        """Put a model there, or the first part of its archive, and then a fresh empty donefile.

        :param moment: when, in seconds since the epoch.
        :param share: how much of the archive.
        """
        content = packed(version)
        self.put(ARCHIVE, content[: int(share * len(content))], moment)
        self.put(DONEFILE, b"", moment)


class General(Remote):
    """A folder behind nginx, where `wget` reads it."""

    kind = "general"

    def __init__(self, processes: Processes, folder: Path) -> None:
        require_program("wget", "wget")
        self._processes = processes
        self._nginx = Nginx.start(processes, folder)
        url = "http://{}:{}".format(*self._nginx.address)
        self.connection = {"conn_type": "http", "host": url}
        self.options = {"type": "general", "general_host": url}

    def put(self, name: str, content: bytes, moment: float) -> None:
        """Make or replace a file, in one step and with a modification time."""
        beside = self._nginx.files / f"{name}.beside"
        beside.write_bytes(content)
        os.utime(beside, (moment, moment))
        beside.replace(self._nginx.files / name)

    def push(self, file: Path) -> None:
        """Copy a file there."""
        shutil.copyfile(file, self._nginx.files / file.name)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._nginx.files / name).unlink()

    def stopped(self) -> AbstractContextManager[None]:
        """End nginx meanwhile."""
        return self._nginx.stopped(self._processes)


class Ftp(Remote):
    """An FTP server that asks for a password."""

    kind = "ftp"

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._folder = folder
        self._running = stack.enter_context(ExitStack())
        host, port = self._address = self._start()
        self.connection = {"conn_type": "ftp", "host": host, "port": port, "login": USER, "password": PASSWORD}
        self.options = {
            "type": "ftp", "ftp_host": host, "ftp_port": port, "ftp_username": USER, "ftp_password": PASSWORD
        }  # fmt: skip

    def _start(self, port: int = 0, **attributes: Any) -> tuple[str, int]:
        return self._running.enter_context(PyFtpServer(self._folder, port=port, **attributes).running()).address

    @contextmanager
    def _client(self) -> Iterator[ftplib.FTP]:
        with ftplib.FTP(timeout=30) as client:
            client.connect(*self._address)
            client.login(USER, PASSWORD)
            yield client

    def put(self, name: str, content: bytes, moment: float) -> None:
        """Make or replace a file, in one step and with a modification time."""
        beside = f"{name}.beside"
        with self._client() as client:
            client.storbinary(f"STOR {beside}", io.BytesIO(content))
            client.voidcmd(f"MFMT {datetime.fromtimestamp(moment, UTC):%Y%m%d%H%M%S} {beside}")
            client.rename(beside, name)

    def push(self, file: Path) -> None:
        """Store a file there."""
        with self._client() as client, file.open("rb") as content:
            client.storbinary(f"STOR {file.name}", content)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._client() as client:
            client.delete(name)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """End the server meanwhile; from then on it hangs up on everybody who is silent for a moment."""
        self._running.close()
        yield
        self._start(self._address[1], timeout=IDLE_SECONDS)


class OfHdfs(Remote):
    """The root of an HDFS, which the Hadoop client reads.

    :param by_client: whether we read it so as well, and not by WebHDFS.
    """

    kind = "hdfs"

    def __init__(self, processes: Processes, hdfs: Hdfs, folder: Path, *, by_client: bool = False) -> None:
        self._processes = processes
        self._hdfs = hdfs
        # a look while the server is down then takes one second instead of ten
        self._hadoop = hdfs.hadoop.write_client(folder, {"ipc.client.connect.max.retries": 1})
        host, port = hdfs.namenode.http
        self.connection = {"conn_type": "webhdfs", "host": host, "port": port, "login": getpass.getuser()}
        if by_client:
            fields = {"conn_type": "hadoop_cli", "host": hdfs.url, "password": f"{USER},{PASSWORD}"}
            self.connection = {**fields, "extra": {"hadoop_bin": str(self._hadoop)}}
        self.options = {"type": "hdfs", "hadoop_bin": self._hadoop, "fs_name": hdfs.url, "fs_ugi": f"{USER},{PASSWORD}"}

    def put(self, name: str, content: bytes, moment: float) -> None:
        """Replace a file, all but in one step and with a modification time."""
        client, path = self._hdfs.administrator, f"/{name}"
        client.write(f"{path}.beside", content)
        client.set_times(f"{path}.beside", modification_time=int(moment * 1000))
        client.delete(path)
        client.rename(f"{path}.beside", path)

    def push(self, file: Path) -> None:
        """Bring a file there by the commands of the document's training script."""
        prefix = [self._hadoop, "fs", f"-Dfs.default.name={self._hdfs.url}", f"-Dhadoop.job.ugi={USER},{PASSWORD}"]
        # the first time there is nothing to remove
        subprocess.run([*prefix, "-rmr", f"/{file.name}"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run([*prefix, "-put", file, "/"], check=True)

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._hdfs.administrator.delete(f"/{name}")

    def stopped(self) -> AbstractContextManager[None]:
        """End the NameNode meanwhile."""
        return self._hdfs.stopped(self._processes)
