"""From a connection id to a store: the only place that reads secrets."""

from __future__ import annotations

import codecs
import ftplib
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseHook

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.task import is_true

if TYPE_CHECKING:
    from airflow.sdk import Connection

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
        raise Refused(f"opening {remote_path}: object storage is not available in this release; use {_known()}")
    opener = OPENERS.get(connection.conn_type or "")
    if opener is None:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: its type is {connection.conn_type!r}, for which there is "
            f"no store in this release; use {_known()}"
        )
    return opener(connection)


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


OPENERS: dict[str, Callable[[Connection], Store]] = {"http": _http, "fs": _fs, "ftp": _ftp}
"""Connection type to what opens its store."""


def _known() -> str:
    return f"a connection of type {' or '.join(sorted(OPENERS))}"


def _verify(value: Any) -> bool | str:
    """Read whether to verify certificates: a truth value, as text too, or the file or folder of the authorities."""
    if isinstance(value, str) and value.strip().lower() not in ("true", "false"):
        return value
    return is_true(value)


def _for(hook: Hook, connection: Connection) -> Hook:
    """Make a hook use a connection that is at hand: in a triggerer it must not be looked up again, and blockingly."""
    setattr(hook, "get_connection", lambda _conn_id: connection)  # noqa: B010 - it is a class method to mypy
    return hook
