"""Every store, in front of a real server, as Airflow's connections reach it, and what can go wrong on the way there."""

from __future__ import annotations

import getpass
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from airflow_serving_reload.demo.processes import Processes
from tests.contract.bench import PASSWORD, USER, WRONG_PASSWORD, Address
from tests.contract.proxy import CuttingProxy

if TYPE_CHECKING:
    from tests.contract.ftp_servers import PyFtpServer
    from tests.contract.hadoop import Hdfs
    from tests.contract.nginx import Nginx
    from tests.contract.object_servers import S3Server, SshServer

CONN_ID = "model_store"

AS_ANYBODY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
"""Runs a command to which the permissions of files apply, even as root."""


class Servers:
    """The servers that several tests share, each started when it is first asked for.

    :param processes: owns them.
    :param folder: where their files go.
    """

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Let them run until the end of the `with` block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """End them."""
        self._stack.close()

    def _folder_of(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def nginx(self) -> Nginx:
        """An nginx with all its variants."""
        from tests.contract.nginx import Nginx

        return Nginx.start(self.processes, self._folder_of("nginx"))

    @cached_property
    def hdfs(self) -> Hdfs:
        """A real HDFS."""
        from tests.contract.hadoop import Hdfs

        return Hdfs.start(self.processes, self._folder_of("hdfs"))

    @cached_property
    def hadoop_program(self) -> Path:
        """A Hadoop client of the real HDFS."""
        return self.hdfs.write_client(self._folder / "hadoop-client")

    @cached_property
    def s3(self) -> S3Server:
        """An S3 server."""
        from tests.contract.object_servers import S3Server

        return self._stack.enter_context(S3Server.running(self.processes, self._folder_of("s3")))

    @cached_property
    def ssh(self) -> SshServer:
        """An SSH server."""
        from tests.contract.object_servers import SshServer

        return self._stack.enter_context(SshServer.running(self.processes, self._folder_of("ssh")))


@dataclass(frozen=True, kw_only=True)
class Way:
    """How tasks reach a store.

    :param fields: of the connection.
    :param remote_path: a folder in the store.
    :param environment: further variables of the tasks.
    :param address: where its server listens; None if there is none.
    :param wrong_login: fields that make the login fail; None if there is none.
    :param patience: what in the connection's extra bounds the wait for an answer, from its seconds.
    :param prefix: of the command that runs the tasks.
    """

    fields: Mapping[str, Any]
    remote_path: str = "/models"
    environment: Mapping[str, str] = field(default_factory=dict)
    address: Address | None = None
    wrong_login: Mapping[str, Any] | None = None
    patience: Callable[[float], Mapping[str, Any]] = lambda seconds: {"timeout": seconds}
    prefix: Sequence[str] = ()

    @property
    def variables(self) -> dict[str, str]:
        """The variables by which tasks know the connection."""
        return {f"AIRFLOW_CONN_{CONN_ID.upper()}": json.dumps(self.fields), **self.environment}

    def with_fields(self, **fields: Any) -> Self:
        """Give the way by a connection with other fields, those of its extra added to what is there."""
        extra = {**self.fields.get("extra", {}), **fields.get("extra", {})}
        return replace(self, fields={**self.fields, **fields, "extra": extra})

    def with_patience(self, seconds: float) -> Self:
        """Give the way that waits so long for an answer."""
        return self.with_fields(extra=self.patience(seconds))

    def at(self, address: Address) -> Self:
        """Give the way to another address."""
        return self.with_fields(host=address.host, port=address.port)

    @contextmanager
    def breaking_off(self, after: int) -> Iterator[Self]:
        """Give the way to a server that breaks off for good, until the end of the `with` block.

        :param after: bytes that one connection brings.
        """
        assert self.address
        with dying_proxy(self.address, after) as proxy:
            yield self.at(proxy.address)

    def closed(self, model: str) -> AbstractContextManager[Self]:
        """Give the way on which the model may not be read, until the end of the `with` block.

        :param model: its name.
        """
        raise NotImplementedError


@contextmanager
def dying_proxy(upstream: Address, after: int) -> Iterator[CuttingProxy]:
    """Stand before a server that, once a connection has brought so many bytes, is gone."""

    def die() -> None:
        proxy.gone_after = 0

    with CuttingProxy(upstream, cuts=[after] * 1000, before_cut=die).running() as proxy:
        yield proxy


def empty(folder: Path) -> None:
    """Remove everything from a folder."""
    shutil.rmtree(folder)
    folder.mkdir()


@dataclass(frozen=True, kw_only=True)
class FolderWay(Way):
    """The way to a folder of this host.

    :param folder: the one that `remote_path` stands for.
    """

    folder: Path

    @contextmanager
    def closed(self, model: str) -> Iterator[Self]:
        """Give the way while the permissions of the model keep everybody out."""
        (self.folder / model).chmod(0)
        yield self if os.geteuid() else replace(self, prefix=AS_ANYBODY)
        (self.folder / model).chmod(0o644)


@contextmanager
def over_fs(_servers: Servers, folder: Path) -> Iterator[Way]:
    """Put the store into a folder."""
    yield FolderWay(fields={"conn_type": "fs", "extra": {"path": str(folder)}}, folder=folder / "models")


@contextmanager
def over_file(_servers: Servers, folder: Path) -> Iterator[Way]:
    """Name a folder as object storage."""
    yield FolderWay(fields={"conn_type": "fs"}, remote_path=f"file://{folder}/models", folder=folder / "models")


@contextmanager
def over_http(_servers: Servers, folder: Path) -> Iterator[Way]:
    """Put the store behind HTTP, with a password, by the embedded server, which lists every name."""
    from tests.contract.embedded import start

    (folder / "password").write_text(PASSWORD)
    with Processes(unwind_on_signals=False) as processes:
        address = start(processes, folder, "--user", USER, "--password-file", str(folder / "password"))
        yield Way(fields=_http(address), address=address, wrong_login={"password": WRONG_PASSWORD})


def _http(address: Address) -> dict[str, Any]:
    return {"conn_type": "http", "host": address.host, "port": address.port, "login": USER, "password": PASSWORD}


@dataclass(frozen=True, kw_only=True)
class NginxWay(Way):
    """The way to nginx."""

    @contextmanager
    def closed(self, model: str) -> Iterator[Self]:
        """Give the way by a location that gives no models out."""
        yield replace(self, remote_path="/without-models")


@contextmanager
def over_nginx(servers: Servers, _folder: Path) -> Iterator[Way]:
    """Put the store behind nginx, with a password."""
    nginx = servers.nginx
    wrong_login = {"password": WRONG_PASSWORD}
    way = NginxWay(fields=_http(nginx.address), address=nginx.address, wrong_login=wrong_login)
    files = nginx.files / "with-password"
    empty(files)
    yield replace(way, remote_path="/with-password/models")
    empty(files)


@dataclass(frozen=True, kw_only=True)
class FtpWay(Way):
    """The way to an FTP server, whose data connections no proxy sees.

    :param server: the one at `address`.
    :param another: makes another one over the same files.
    """

    server: PyFtpServer
    another: Callable[..., PyFtpServer]

    @contextmanager
    def breaking_off(self, after: int) -> Iterator[Self]:
        """Give the way to a server that shuts down in the middle of a file."""
        from tests.contract.ftp_servers import dying

        with self.another(**dying(self.server, after)).running() as server:
            yield self.at(server.address)

    @contextmanager
    def closed(self, model: str) -> Iterator[Self]:
        """Give the way to a server that lets files be listed but not read."""
        with self.another().running() as server:
            for user in server.authorizer.user_table.values():
                user["perm"] = "el"
            yield self.at(server.address)


@contextmanager
def over_ftp(_servers: Servers, folder: Path) -> Iterator[Way]:
    """Put the store behind FTP, without a login."""
    from tests.contract.ftp_servers import EVERYTHING, PyFtpServer

    another = partial(PyFtpServer, folder)
    with another().running() as server:
        server.authorizer.user_table["anonymous"]["perm"] = EVERYTHING
        yield FtpWay(
            fields={"conn_type": "ftp", "host": server.address.host, "port": server.address.port},
            address=server.address,
            wrong_login={"login": USER, "password": WRONG_PASSWORD},
            server=server,
            another=another,
        )


@contextmanager
def over_ftps(_servers: Servers, folder: Path) -> Iterator[Way]:
    """Put the store behind FTP that wants TLS and a password."""
    from tests.contract.certificates import Authority
    from tests.contract.ftp_servers import PyFtpServer, tls_handler

    beside = folder.with_name("certificates")
    beside.mkdir()
    authority = Authority(beside)
    another = partial(PyFtpServer, folder, **tls_handler(authority, beside))
    with another().running() as server:
        login = {"login": USER, "password": PASSWORD, "extra": {"tls": True, "verify": str(authority.certificate)}}
        yield FtpWay(
            fields={"conn_type": "ftp", "host": server.address.host, "port": server.address.port, **login},
            address=server.address,
            wrong_login={"password": WRONG_PASSWORD},
            server=server,
            another=another,
        )


@dataclass(frozen=True, kw_only=True)
class HdfsWay(Way):
    """The way into HDFS.

    :param hdfs: the nodes.
    :param scheme: before the host, where the connection wants one.
    """

    hdfs: Hdfs
    scheme: str = ""

    def at(self, address: Address) -> Self:
        """Give the way to another address."""
        return self.with_fields(host=f"{self.scheme}{address.host}", port=address.port)

    @contextmanager
    def breaking_off(self, after: int) -> Iterator[Self]:
        """Give the way by one address for both nodes, which breaks off."""
        from tests.contract.hadoop_front import Front

        with Front(self.hdfs).running() as front, dying_proxy(front.address, after) as proxy:
            front.seen_as = proxy.address
            yield self.at(proxy.address)

    @contextmanager
    def closed(self, model: str) -> Iterator[Self]:
        """Give the way while the model belongs to somebody else, who alone may read it."""
        path = f"{self.remote_path}/{model}"
        self.hdfs.administrator.set_owner(path, owner=getpass.getuser())
        self.hdfs.administrator.set_permission(path, "600")
        yield self
        self.hdfs.administrator.set_permission(path, "666")


@contextmanager
def _in_hdfs(servers: Servers, conn_type: str, address: Callable[[Hdfs], Address], **more: Any) -> Iterator[Way]:
    hdfs = servers.hdfs
    hdfs.clear()
    fields = {"conn_type": conn_type, **more.pop("fields", {})}
    way = HdfsWay(fields=fields, address=address(hdfs), hdfs=hdfs, **more)
    yield way.at(address(hdfs))
    hdfs.clear()


def over_webhdfs(servers: Servers, _folder: Path) -> AbstractContextManager[Way]:
    """Put the store into HDFS, behind WebHDFS."""
    return _in_hdfs(servers, "webhdfs", lambda hdfs: hdfs.namenode.http, fields={"login": USER})


def over_hdfs_native(servers: Servers, _folder: Path) -> AbstractContextManager[Way]:
    """Put the store into HDFS, behind its own protocol."""
    environment = {"HADOOP_USER_NAME": USER}
    return _in_hdfs(servers, "hdfs_native", lambda hdfs: hdfs.namenode.rpc, environment=environment)


def over_hadoop_cli(servers: Servers, _folder: Path) -> AbstractContextManager[Way]:
    """Put the store into HDFS, behind the Hadoop client."""
    return _in_hdfs(
        servers,
        "hadoop_cli",
        lambda hdfs: hdfs.namenode.rpc,
        fields={"password": f"{USER},{PASSWORD}", "extra": {"hadoop_bin": str(servers.hadoop_program)}},
        scheme="hdfs://",
        # it takes a second to start, several on a host that has much to do
        patience=lambda seconds: {"timeout": seconds + 8},
    )


@dataclass(frozen=True, kw_only=True)
class S3Way(Way):
    """The way into a bucket.

    :param server: where it is.
    """

    server: S3Server

    def at(self, address: Address) -> Self:
        """Give the way to another address."""
        return self.with_fields(extra={"endpoint_url": "http://{}:{}".format(*address)})

    @contextmanager
    def closed(self, model: str) -> Iterator[Self]:
        """Give the way while the bucket's policy closes the model."""
        from tests.contract.object_servers import BUCKET, FORBIDDEN

        client = self.server.client
        policy = client.get_bucket_policy(Bucket=BUCKET)["Policy"]
        client.put_bucket_policy(Bucket=BUCKET, Policy=policy.replace(FORBIDDEN, f"/models/{model}"))
        yield self
        client.put_bucket_policy(Bucket=BUCKET, Policy=policy)


@contextmanager
def over_s3(servers: Servers, _folder: Path) -> Iterator[Way]:
    """Put the store into a bucket."""
    from tests.contract.object_servers import BUCKET, REGION, S3Bench

    server = servers.s3
    S3Bench(server).store.close()
    extra = {"endpoint_url": server.url, "region_name": REGION}
    yield S3Way(
        fields={"conn_type": "aws", "login": USER, "password": PASSWORD, "extra": extra},
        remote_path=f"s3://{BUCKET}/models",
        address=server.address,
        wrong_login={"password": WRONG_PASSWORD},
        patience=lambda seconds: {"config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds}},
        server=server,
    )
    S3Bench(server).store.close()


@dataclass(frozen=True, kw_only=True)
class SftpWay(Way):
    """The way to an SSH server.

    :param server: the one at `address`.
    """

    server: SshServer

    @contextmanager
    def closed(self, model: str) -> Iterator[Self]:
        """Give the way to a port where nobody may open a file."""
        yield self.at(self.server.closed_address)


@contextmanager
def over_sftp(servers: Servers, folder: Path) -> Iterator[Way]:
    """Put the store behind SFTP, with a key."""
    server = servers.ssh
    host, port = server.address
    extra = {"key_file": str(server.folder / "user_key"), "host_key": server.host_key}
    yield SftpWay(
        fields={"conn_type": "sftp", "host": host, "port": port, "login": getpass.getuser(), "extra": extra},
        remote_path=f"sftp://{folder}/models",
        address=server.address,
        wrong_login={"extra": {"key_file": str(server.folder / "host_key")}},
        patience=lambda seconds: {"conn_timeout": seconds},
        server=server,
    )


STORES: dict[str, Callable[[Servers, Path], AbstractContextManager[Way]]] = {
    "fs": over_fs,
    "http": over_http,
    "ftp": over_ftp,
    "ftps": over_ftps,
    "webhdfs": over_webhdfs,
    "hdfs_native": over_hdfs_native,
    "hadoop_cli": over_hadoop_cli,
    "file": over_file,
    "s3": over_s3,
    "sftp": over_sftp,
}
"""Name of a store to what gives the way to an empty one: from the servers, and a folder of its own on this host."""
