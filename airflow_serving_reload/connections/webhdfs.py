"""Connections of type `webhdfs`: HDFS by HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import conf

from airflow_serving_reload.connections.settings import (
    extra,
    namenodes_of,
    parallel_of,
    seconds_of,
    verification_of,
)
from airflow_serving_reload.task import is_true

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection) -> Store:
    """Open WebHDFS by the fields of Airflow's own connection type `webhdfs`.

    Its hook is not used: it installs only where Kerberos can be built, waits without a limit, and does not verify
    certificates unless told to.
    """
    with extra("hdfs"):
        from airflow_serving_reload.delivery.stores import webhdfs

    settings = connection.extra_dejson
    scheme, port = ("https", 9871) if is_true(settings.get("use_ssl")) else ("http", 9870)
    hosts = namenodes_of(connection, port)
    prefix = f"/{connection.schema.strip('/')}" if connection.schema else ""
    addresses = [f"{scheme}://{host}{prefix}" for host in hosts]
    password = (connection.login or "", connection.password) if connection.password else None
    session = webhdfs.WebHdfsSession(password, hosts)
    session.verify = verification_of(connection)
    session.cert = (settings["cert"], settings["key"]) if settings.get("key") else settings.get("cert")
    session.headers.update(settings.get("headers") or {})
    session.cookies.update(settings.get("cookies") or {})
    parallel = parallel_of(connection)
    timeout = seconds_of(connection, "timeout", default=60)
    limits = (min(timeout, 10), timeout)
    if conf.get("core", "security", fallback="") == "kerberos":
        with extra("hdfs-kerberos"):
            client = webhdfs.kerberos_client(addresses, session, limits)
    else:
        client = webhdfs.insecure_client(addresses, connection.login or None, session, limits)
    store = webhdfs.WebHdfsStore(client, session)
    store.parallel = parallel
    return store
