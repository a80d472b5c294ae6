"""Connections of type `ftp`; FTPS with `tls` in the extra."""

from __future__ import annotations

import codecs
import ftplib
import ssl
from typing import TYPE_CHECKING

from airflow_serving_reload.connections.settings import seconds_of, verification_of, with_connection
from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.task import is_true

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection) -> Store:
    """Open a store over FTP.

    :raises Refused: a setting is no good.
    """
    from airflow_serving_reload.delivery.stores.ftp import FtpStore

    host, port = connection.host, connection.port or ftplib.FTP_PORT
    if not host:
        raise Refused(f"opening the connection {connection.conn_id!r}: it has no host; give it the server's")
    timeout = seconds_of(connection, "timeout", default=60)
    context = _tls_context(connection) if is_true(connection.extra_dejson.get("tls")) else None

    def connect() -> ftplib.FTP:
        client = _client(connection, context)
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


def _client(connection: Connection, context: ssl.SSLContext | None) -> ftplib.FTP:
    """Make a client that is not connected, with the mode and the encoding that the provider's hook reads.

    The hook would connect without a timeout, and never log in as anonymous; not knowing the host it leaves both to us.
    The hook for TLS does not: it protects the connection in one go, and sets the port for all clients of the process.
    """
    from airflow.providers.ftp.hooks.ftp import FTPHook
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.ftp import FtpOverTls

    nowhere = Connection(conn_id=connection.conn_id, extra=connection.extra)
    client = with_connection(FTPHook(ftp_conn_id=connection.conn_id), nowhere).get_conn()
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
    verify = verification_of(connection)
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
