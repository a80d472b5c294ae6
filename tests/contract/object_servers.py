"""A real S3 server and a real OpenSSH server, and the bench on either."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from airflow_serving_reload.delivery.stores.fsspec import FsspecStore
from airflow_serving_reload.demo.processes import Child, ProcessError, Processes
from tests.requirements import require, require_program

from .bench import PASSWORD, USER, Address, FolderBench, NetworkBench
from .nginx import START_ATTEMPTS, wait_for_port

# Far beyond what an answer takes: it only turns a hang into a failure.
TIMEOUT = 20

BLOCK = 1 << 16
"""Bytes read at a time: what a break costs is to be small against the files of the suite."""

ROOT = "root-of-the-gateway"
REGION = "us-east-1"
BUCKET = "store"
VERSIONED_BUCKET = "versions"
FORBIDDEN = "/models/forbidden"

S3_CLIENT_SETTINGS = {"retries": {"mode": "standard", "total_max_attempts": 1}, "read_timeout": TIMEOUT}
"""What the connection's opener sets."""


def require_package(name: str, extra: str) -> None:
    """Go on only if a package is installed that an extra of the project brings."""
    require(find_spec(name), f"needs the package {name}: pip install --editable '.[{extra}]'")


@dataclass(frozen=True)
class S3Server:
    """A running versitygw, which checks signatures and policies, and keeps objects as files.

    :param folder: with a folder for each bucket.
    :param address: where it listens.
    """

    folder: Path
    address: Address

    @classmethod
    @contextmanager
    def running(cls, processes: Processes, folder: Path) -> Iterator[Self]:
        """Start it with one bucket, which one user may use, and end it with the `with` block.

        :param processes: owns it.
        :param folder: where its files go.
        """
        require_package("s3fs", "s3")
        program = require_program(
            "versitygw", "golang-go, then run `go install github.com/versity/versitygw/cmd/versitygw@v1.8.0`"
        )
        for name in ("buckets", "users", "versions"):
            (folder / name).mkdir()
        # credentials as arguments would be seen by everybody on this host
        secrets = {"ROOT_ACCESS_KEY": ROOT, "ROOT_SECRET_KEY": PASSWORD[::-1]}
        options = ["--keep-alive", "--quiet", "--iam-dir", str(folder / "users")]

        def command(address: Address) -> list[str]:
            place = f"{address.host}:{address.port}"
            storage = ["posix", "--versioning-dir", str(folder / "versions"), str(folder / "buckets")]
            return [str(program), "--port", place, *options, *storage]

        with started(processes, "versitygw", command, folder, environment={**os.environ, **secrets}) as address:
            server = cls(folder / "buckets", address)
            server._let_user_in(program)
            yield server

    def _let_user_in(self, program: Path) -> None:
        """Make the user, and buckets in which it may do everything except to read one file."""
        admin = [str(program), "admin", "--access", ROOT, "--secret", PASSWORD[::-1], "--endpoint-url", self.url]
        user = ["--access", USER, "--secret", PASSWORD, "--role", "user"]
        subprocess.run([*admin, "create-user", *user], check=True, capture_output=True, timeout=60)
        for bucket in (BUCKET, VERSIONED_BUCKET):
            self.client.create_bucket(Bucket=bucket)
            everything = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
            rule = {"Principal": {"AWS": [USER]}, "Effect": "Allow", "Action": "s3:*", "Resource": everything}
            closed = f"arn:aws:s3:::{bucket}{FORBIDDEN}"
            except_for = {**rule, "Effect": "Deny", "Action": "s3:GetObject", "Resource": closed}
            policy = {"Version": "2012-10-17", "Statement": [rule, except_for]}
            self.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        versioning = {"Status": "Enabled"}
        self.client.put_bucket_versioning(Bucket=VERSIONED_BUCKET, VersioningConfiguration=versioning)

    @property
    def url(self) -> str:
        """The address as clients want it."""
        return f"http://{self.address.host}:{self.address.port}"

    @cached_property
    def client(self) -> Any:
        """A client with all rights, of another make than the one under test."""
        from botocore.session import Session

        return Session().create_client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ROOT,
            aws_secret_access_key=PASSWORD[::-1],
            region_name=REGION,
        )


@cache
def s3_session() -> Any:
    """Give what reads the description of the protocol, which takes a while, once for all clients."""
    from aiobotocore.session import AioSession

    return AioSession()


class S3Bench(NetworkBench):
    """A store in a bucket.

    :param server: where the bucket is; it is emptied first.
    """

    def __init__(self, server: S3Server) -> None:
        self.address = server.address
        self._server = server
        self._client = server.client
        for key in self._keys():
            self._client.delete_object(Bucket=BUCKET, Key=key)
        for upload in self._uploads():
            self._client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
        self.store = self.connect()

    def _keys(self, **arguments: Any) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, **arguments)
        listed = [page.get("Contents", []) + page.get("CommonPrefixes", []) for page in pages]
        # what is below a folder comes before it
        return sorted((entry.get("Key") or entry["Prefix"] for page in listed for entry in page), reverse=True)

    def connect(
        self, address: Address | None = None, *, password: str | None = None, bucket: str = BUCKET, **options: Any
    ) -> FsspecStore:
        """Open another store, on the same bucket or another one, without pauses.

        :param options: of the file system, in place of the usual ones.
        """
        from s3fs import S3FileSystem

        host, port = address or self.address

        def connected() -> S3FileSystem:
            login = {"key": USER, "secret": password or PASSWORD}
            usual = {"config_kwargs": S3_CLIENT_SETTINGS, "client_kwargs": {"region_name": REGION}}
            place = {"endpoint_url": f"http://{host}:{port}", "session": s3_session()}
            fs = S3FileSystem(**{**place, **login, **usual, **options})
            # two attempts show as much as five, with less of a pause
            fs.retries = 2
            return fs

        return without_pauses(FsspecStore(connected, f"s3://{bucket}"))

    def put(self, path: str, content: bytes = b"", *, mtime: float | None = None) -> None:
        """Make or replace an object."""
        self._client.put_object(Bucket=BUCKET, Key=path.lstrip("/"), Body=content)
        if mtime is not None:
            os.utime(self._server.folder / BUCKET / path.lstrip("/"), (mtime, mtime))

    def make_folder(self, path: str) -> None:
        """Make the mark of an empty folder, and of those above it."""
        steps = path.strip("/").split("/")
        for count in range(1, len(steps) + 1):
            self._client.put_object(Bucket=BUCKET, Key="/".join(steps[:count]) + "/")

    def remove(self, path: str) -> None:
        """Remove an object."""
        self._client.delete_object(Bucket=BUCKET, Key=path.lstrip("/"))

    def content(self, path: str) -> bytes | None:
        """Give the content of an object; None if there is none."""
        try:
            content: bytes = self._client.get_object(Bucket=BUCKET, Key=path.lstrip("/"))["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None
        return content

    def names(self, folder: str) -> list[str]:
        """Give the names of everything in a folder, in order."""
        prefix = f"{folder.strip('/')}/".lstrip("/")
        keys = self._keys(Prefix=prefix, Delimiter="/")
        return sorted(name for key in keys if (name := key.removeprefix(prefix).rstrip("/")))

    def unfinished(self) -> list[str]:
        """Give the keys of the uploads that were begun and neither completed nor taken back."""
        return [upload["Key"] for upload in self._uploads()]

    def _uploads(self) -> list[dict[str, Any]]:
        uploads: list[dict[str, Any]] = self._client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return uploads

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of an object that a policy closes."""
        self.put(FORBIDDEN, b"secret")
        yield FORBIDDEN


SSHD_CONFIGURATION = """
ListenAddress 127.0.0.1:{port}
ListenAddress 127.0.0.1:{closed_port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication yes
MaxStartups 100
MaxAuthTries 100
Subsystem sftp internal-sftp
Match LocalPort {closed_port}
  ForceCommand internal-sftp -P open,opendir
"""


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running OpenSSH server, which lets in whoever runs the tests, by a key of their own.

    :param folder: with the keys `host_key` and `user_key`.
    :param address: where it listens.
    :param closed_address: where it lets nobody open a file.
    """

    folder: Path
    address: Address
    closed_address: Address

    @classmethod
    @contextmanager
    def running(cls, processes: Processes, folder: Path) -> Iterator[Self]:
        """Start it, and end it with the `with` block.

        :param processes: owns it.
        :param folder: where its configuration goes.
        """
        require_package("sshfs", "sftp")
        program = require_program("sshd", "openssh-server")
        keygen = require_program("ssh-keygen", "openssh-client")
        for name in ("host_key", "user_key"):
            command = [str(keygen), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        if os.geteuid() == 0:
            # where root's sshd shuts itself in; the system makes it only where it starts one
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        closed_address = free_address()

        def command_for(address: Address) -> list[str]:
            text = SSHD_CONFIGURATION.format(folder=folder, port=address.port, closed_port=closed_address.port)
            (folder / "sshd_config").write_text(text)
            return [str(program), "-D", "-e", "-f", str(folder / "sshd_config")]

        with started(processes, "sshd", command_for, folder) as address:
            yield cls(folder, address, closed_address)

    @property
    def host_key(self) -> str:
        """The public key by which it is known."""
        return (self.folder / "host_key.pub").read_text()


class SftpBench(FolderBench, NetworkBench):
    """A store over SFTP on a folder of this host.

    :param server: what serves all of this host.
    :param folder: the store's.
    """

    def __init__(self, server: SshServer, folder: Path) -> None:
        self.address = server.address
        self._server = server
        self._root = folder
        super().__init__(folder, self.connect())

    def connect(self, address: Address | None = None, *, password: str | None = None, **options: Any) -> FsspecStore:
        """Open another store on the same files, without pauses.

        :param options: of the file system, in place of the usual ones.
        """
        from sshfs import SSHFileSystem

        host, port = address or self.address
        key = str(self._server.folder / "user_key")
        login: dict[str, Any] = {"password": password, "client_keys": None} if password else {"client_keys": [key]}

        def connected() -> SSHFileSystem:
            usual = {
                "username": getpass.getuser(),
                "known_hosts": f"* {self._server.host_key}".encode(),
                # nothing of whoever runs the tests
                "config": None,
                "agent_path": None,
                "connect_timeout": TIMEOUT,
                "skip_instance_cache": True,
            }
            return SSHFileSystem(host, port=port, **{**usual, **login, **options})

        return without_pauses(FsspecStore(connected, f"sftp://{host}:{port}{self._root}"))

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of a file, on a port of the server where it lets nobody open one."""
        path = "/models/forbidden"
        self.put(path, b"secret")
        usual, self.store = self.store, self.connect(self._server.closed_address)
        try:
            yield path
        finally:
            self.store.close()
            self.store = usual


def without_pauses(store: FsspecStore) -> FsspecStore:
    """Make a store go on at once where a transfer broke off."""
    store.resume_pauses = (0, 0, 0)
    store.block = BLOCK
    return store


def free_address() -> Address:
    """Find a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return Address("127.0.0.1", taken.getsockname()[1])


@contextmanager
def started(
    processes: Processes,
    name: str,
    command: Callable[[Address], list[str]],
    folder: Path,
    environment: dict[str, str] | None = None,
) -> Iterator[Address]:
    """Start a server on a port that was free a moment ago, on another one if it is no longer."""
    server, address = _start(processes, name, command, folder, environment)
    try:
        yield address
    finally:
        processes.end(server)


def _start(
    processes: Processes,
    name: str,
    command: Callable[[Address], list[str]],
    folder: Path,
    environment: dict[str, str] | None,
) -> tuple[Child, Address]:
    for attempt in range(1, START_ATTEMPTS + 1):
        address = free_address()
        server = processes.start(name, command(address), log=folder / "output.log", environment=environment)
        try:
            wait_for_port(processes, server, address)
        except ProcessError:
            processes.end(server)
            if attempt == START_ATTEMPTS or "address already in use" not in server.last_lines().lower():
                raise
        else:
            return server, address
    raise AssertionError
