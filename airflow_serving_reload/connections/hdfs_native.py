"""Connections of type `hdfs_native`: HDFS by its own protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_serving_reload.connections.settings import (
    extra,
    hadoop_settings_of,
    namenodes_of,
    parallel_of,
    seconds_of,
)
from airflow_serving_reload.delivery.errors import Refused

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection) -> Store:
    """Open HDFS by its native protocol.

    With a port, the hosts are NameNodes; without one, the host is a nameservice that the configuration explains.
    """
    with extra("hdfs-native"):
        from airflow_serving_reload.delivery.stores.hdfs_native import NativeHdfsStore, open_clients, user_of_process

    settings = connection.extra_dejson
    user = user_of_process()
    if connection.login not in (None, "", user) and not settings.get("kerberos_principal"):
        raise Refused(
            f"opening the connection {connection.conn_id!r}: its login is {connection.login!r}, but the client of the "
            f"native protocol is always the user of the process, {user!r}; set HADOOP_USER_NAME={connection.login} "
            "for the workers and triggerers, or use a connection of type webhdfs"
        )
    hosts = namenodes_of(connection, None)
    credentials = {name: settings.get(name) for name in ("kerberos_principal", "kerberos_keytab", "kerberos_cache")}
    clients = open_clients(hosts, hadoop_settings_of(connection), settings.get("config_dir"), **credentials)
    parallel = parallel_of(connection)
    timeout = seconds_of(connection, "timeout", default=60)
    store = NativeHdfsStore(clients, f"hdfs://{','.join(hosts)}", timeout=timeout)
    store.parallel = parallel
    return store
