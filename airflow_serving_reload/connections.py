"""From a connection id to a store: the only place that reads secrets."""

from __future__ import annotations

import codecs
import ftplib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseHook, conf

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.task import is_true

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from fsspec import AbstractFileSystem

    from airflow_serving_reload.delivery.stores.base import Store

Hook = TypeVar("Hook", bound=BaseHook)


def open_store(conn_id: str, remote_path: str) -> Store:
    """Open the store that a connection leads to.

    :param conn_id: Airflow connection; its type decides the transport.
    :param remote_path: folder in the store; one with a scheme decides the transport instead.
    :raises Refused: there is no store for this type.
    """
    return _store_of(BaseHook.get_connection(conn_id), remote_path)


async def open_store_async(conn_id: str, remote_path: str) -> Store:
    """Open the store that a connection leads to, from a coroutine."""
    return _store_of(await BaseHook.aget_connection(conn_id), remote_path)


def _store_of(connection: Connection, remote_path: str) -> Store:
    if "://" in remote_path:
        return _object_storage(connection, remote_path)
    opener = OPENERS.get(connection.conn_type or "")
    if opener is None:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: its type is {connection.conn_type!r}, for which there is "
            f"no store in this release; use {_known()}"
        )
    return opener(connection)


def _object_storage(connection: Connection, remote_path: str) -> Store:
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
            return get_fs(scheme, connection.conn_id, options)
        except (ImportError, ValueError) as error:
            raise Refused(
                f"opening {remote_path}: {error}; install the Airflow provider of this scheme, as by "
                "`pip install 'airflow-serving-reload[s3,sftp]'`, and check the connection"
            ) from error

    return FsspecStore(connect, remote_path)


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
        "connect_timeout": _seconds(connection, "conn_timeout", default=30),
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


def _http(connection: Connection) -> Store:
    from airflow.providers.http.hooks.http import HttpHook

    from airflow_serving_reload.delivery.stores.http import HttpStore

    hook = _for(HttpHook(http_conn_id=connection.conn_id), connection)
    session = hook.get_conn()
    timeout = connection.extra_dejson.get("timeout")
    if timeout is None:
        return HttpStore(session, hook.base_url)
    return HttpStore(session, hook.base_url, timeout=(float(timeout), float(timeout)))


def _fs(connection: Connection) -> Store:
    from pathlib import Path

    from airflow_serving_reload.delivery.stores.fs import FileSystemStore

    return FileSystemStore(Path(connection.extra_dejson.get("path") or "/"))


def _webhdfs(connection: Connection) -> Store:
    """Open WebHDFS by the fields of Airflow's own connection type `webhdfs`.

    Its hook is not used: it installs only where Kerberos can be built, waits without a limit, and does not verify
    certificates unless told to.
    """
    with _extra("hdfs"):
        from airflow_serving_reload.delivery.stores import webhdfs

    extra = connection.extra_dejson
    scheme, port = ("https", 9871) if is_true(extra.get("use_ssl")) else ("http", 9870)
    hosts = _hosts(connection, port)
    prefix = f"/{connection.schema.strip('/')}" if connection.schema else ""
    addresses = [f"{scheme}://{host}{prefix}" for host in hosts]
    password = (connection.login or "", connection.password) if connection.password else None
    session = webhdfs.WebHdfsSession(password, hosts)
    session.verify = _verify(extra.get("verify", True))
    session.cert = (extra["cert"], extra["key"]) if extra.get("key") else extra.get("cert")
    session.headers.update(extra.get("headers") or {})
    session.cookies.update(extra.get("cookies") or {})
    timeout = _seconds(connection, "timeout", default=60)
    limits = (min(timeout, 10), timeout)
    if conf.get("core", "security", fallback="") == "kerberos":
        with _extra("hdfs-kerberos"):
            client = webhdfs.kerberos_client(addresses, session, limits)
    else:
        client = webhdfs.insecure_client(addresses, connection.login or None, session, limits)
    return webhdfs.WebHdfsStore(client, session)


def _hdfs_native(connection: Connection) -> Store:
    """Open HDFS by its native protocol.

    With a port, the hosts are NameNodes; without one, the host is a nameservice that the configuration explains.
    """
    with _extra("hdfs-native"):
        from airflow_serving_reload.delivery.stores.hdfs_native import NativeHdfsStore, open_clients, user_of_process

    extra = connection.extra_dejson
    user = user_of_process()
    if connection.login not in (None, "", user) and not extra.get("kerberos_principal"):
        raise Refused(
            f"opening the connection {connection.conn_id!r}: its login is {connection.login!r}, but the client of the "
            f"native protocol is always the user of the process, {user!r}; set HADOOP_USER_NAME={connection.login} "
            "for the workers and triggerers, or use a connection of type webhdfs"
        )
    hosts = _hosts(connection, None)
    credentials = {name: extra.get(name) for name in ("kerberos_principal", "kerberos_keytab", "kerberos_cache")}
    clients = open_clients(hosts, extra.get("config"), extra.get("config_dir"), **credentials)
    timeout = _seconds(connection, "timeout", default=60)
    return NativeHdfsStore(clients, f"hdfs://{','.join(hosts)}", timeout=timeout)


def _ftp(connection: Connection) -> Store:
    from airflow_serving_reload.delivery.stores.ftp import FtpStore

    host, port = connection.host, connection.port or ftplib.FTP_PORT
    if not host:
        raise Refused(f"opening the connection {connection.conn_id!r}: it has no host; give it the server's")
    timeout = _seconds(connection, "timeout", default=60)
    context = _tls_context(connection) if is_true(connection.extra_dejson.get("tls")) else None

    def connect() -> ftplib.FTP:
        client = _ftp_client(connection, context)
        try:
            client.connect(host, port, timeout)
            client.login(connection.login or "", connection.password or "")
            if isinstance(client, ftplib.FTP_TLS):
                client.prot_p()
        except BaseException:
            client.close()
            raise
        return client

    name = f"[{host}]" if ":" in host else host
    return FtpStore(connect, f"{'ftps' if context else 'ftp'}://{name}:{port}")


def _ftp_client(connection: Connection, context: ssl.SSLContext | None) -> ftplib.FTP:
    """Make a client that is not connected, with the mode and the encoding that the provider's hook reads.

    The hook would connect without a timeout, and never log in as anonymous; not knowing the host it leaves both to us.
    The hook for TLS does not: it protects the connection in one go, and sets the port for all clients of the process.
    """
    from airflow.providers.ftp.hooks.ftp import FTPHook
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.ftp import FtpOverTls

    nowhere = Connection(conn_id=connection.conn_id, extra=connection.extra)
    client = _for(FTPHook(ftp_conn_id=connection.conn_id), nowhere).get_conn()
    try:
        codecs.lookup(client.encoding)
    except LookupError:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: there is no encoding {client.encoding!r}; "
            "set encoding in its extra to one that Python knows, such as utf-8"
        ) from None
    if context is None:
        return client
    protected = FtpOverTls(context=context, encoding=client.encoding)
    protected.set_pasv(bool(client.passiveserver))
    return protected


def _tls_context(connection: Connection) -> ssl.SSLContext:
    """Make what checks the server's certificate, unless `verify` in the extra is false; it may be a file instead."""
    verify = _verify(connection.extra_dejson.get("verify", True))
    authorities = verify if isinstance(verify, str) else None
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: the certificates {authorities} cannot be read ({error}); "
            "set verify in its extra to a file of certificates"
        ) from error
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _seconds(connection: Connection, name: str, *, default: float) -> float:
    """Read a time of a connection's extra."""
    value = connection.extra_dejson.get(name, default)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: {name} in its extra is {value!r}; set a number of seconds"
        )
    return seconds


OPENERS: dict[str, Callable[[Connection], Store]] = {
    "http": _http,
    "fs": _fs,
    "webhdfs": _webhdfs,
    "hdfs_native": _hdfs_native,
    "ftp": _ftp,
}
"""Connection type to what opens its store."""


def _known() -> str:
    return f"a connection of type {' or '.join(sorted(OPENERS))}"


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Import what not every installation has."""
    try:
        yield
    except ImportError as error:
        raise Refused(
            f"opening the connection: {error}; install it by `pip install 'airflow-serving-reload[{name}]'`"
        ) from error


def _hosts(connection: Connection, port: int | None) -> list[str]:
    """Give the addresses among which commas stand in the host of a connection.

    :param port: of those that have none of their own where the connection has none either.
    """
    hosts = [host.strip() for host in (connection.host or "").split(",") if host.strip()]
    if not hosts:
        raise Refused(f"opening the connection {connection.conn_id!r}: it has no host; set it to that of the NameNode")
    port = connection.port or port
    return [host if port is None or re.search(r":\d+$", host) else f"{host}:{port}" for host in hosts]


def _verify(value: Any) -> bool | str:
    """Read whether to verify certificates: a truth value, as text too, or the file or folder of the authorities."""
    if isinstance(value, str) and value.strip().lower() not in ("true", "false"):
        return value
    return is_true(value)


def _for(hook: Hook, connection: Connection) -> Hook:
    """Make a hook use a connection that is at hand: in a triggerer it must not be looked up again, and blockingly."""
    setattr(hook, "get_connection", lambda _conn_id: connection)  # noqa: B010 - it is a class method to mypy
    return hook
