"""Remote paths with a scheme, by whatever connection the file system of that scheme wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_serving_reload.connections.settings import seconds_of, verification_of
from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.task import is_true

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from fsspec import AbstractFileSystem

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection, remote_path: str) -> Store:
    """Open what Airflow's ObjectStoragePath reaches, by the file systems of its providers.

    They look the connection up again, and may talk to a server to log in, so they are made only when the store is
    used: never in an event loop. Each store has one of its own, since those that Airflow attaches live, with the
    connection as it was, as long as the process.
    """
    from airflow.sdk.io import get_fs

    from airflow_serving_reload.delivery.stores.fsspec import FsspecStore

    scheme, _, place = remote_path.partition("://")
    host = place.partition("/")[0]
    if ":" in host.rpartition("@")[0]:
        raise Refused("opening a remote_path with a password in it: leave it out, and give it to the connection")
    options = STORAGE_OPTIONS.get(scheme, _no_options)(connection, host)

    def connect() -> AbstractFileSystem:
        try:
            return _verifying(get_fs(scheme, connection.conn_id, options), connection)
        except (ImportError, ValueError) as error:
            raise Refused(
                f"opening {remote_path}: {error}; install the Airflow provider of this scheme, as by "
                "`pip install 'airflow-serving-reload[s3,sftp]'`, and check the connection"
            ) from error

    return FsspecStore(connect, remote_path)


def _verifying(fs: AbstractFileSystem, connection: Connection) -> AbstractFileSystem:
    """Have S3's certificates verified as the connection says, which Airflow's file system leaves out."""
    if "verify" in connection.extra_dejson and hasattr(fs, "client_kwargs"):
        fs.client_kwargs = {**fs.client_kwargs, "verify": verification_of(connection)}
    return fs


def _no_options(_connection: Connection, _host: str) -> dict[str, Any]:
    return {}


def _file_options(_connection: Connection, host: str) -> dict[str, Any]:
    if host:
        raise Refused(f"opening file://{host}/...: a folder of this host has three slashes; write file:///{host}/...")
    return {}


def _s3_options(connection: Connection, _host: str) -> dict[str, Any]:
    """Bound each request, and leave repeating it to s3fs; the connection's own `config_kwargs` have the last word."""
    own = connection.extra_dejson.get("config_kwargs") or {}
    return {"connect_timeout": 10, "read_timeout": 30, "retries": {"mode": "standard", "total_max_attempts": 1}, **own}


def _sftp_options(connection: Connection, host: str) -> dict[str, Any]:
    """Bound the login, notice a server that is gone, and check its key as Airflow's own hook for SSH does."""
    known = (connection.host or "", f"{connection.host}:{connection.port or 22}")
    if host and host not in known:
        raise Refused(
            f"opening sftp://{host}/...: the connection {connection.conn_id!r} leads to {known[1]}; give that host, or "
            "none, as in sftp:///models"
        )
    extra = connection.extra_dejson
    options = {
        # a connection that was lost would be given out again
        "skip_instance_cache": True,
        "connect_timeout": seconds_of(connection, "conn_timeout", default=30),
        "keepalive_interval": 15,
        "keepalive_count_max": 3,
        "sftp_client_kwargs": {"path_errors": "surrogateescape"},
    }
    if not is_true(extra.get("no_host_key_check")):
        key = " ".join(str(extra.get("host_key") or "").split()[:2])
        if key:
            options["known_hosts"] = f"* {key}".encode() if " " in key else f"* ssh-rsa {key}".encode()
        else:
            # those of the user who runs Airflow
            options["known_hosts"] = extra.get("known_hosts") or ()
    if extra.get("private_key"):
        # as text it would be taken for the name of a file
        options["client_keys"] = [str(extra["private_key"]).encode()]
    if extra.get("private_key_passphrase"):
        options["passphrase"] = extra["private_key_passphrase"]
    return options


STORAGE_OPTIONS: dict[str, Callable[[Connection, str], dict[str, Any]]] = {
    "file": _file_options,
    "s3": _s3_options,
    "s3a": _s3_options,
    "s3n": _s3_options,
    "sftp": _sftp_options,
    "ssh": _sftp_options,
}
"""Scheme to what makes the options of its file system, out of the connection and the host in the address."""
