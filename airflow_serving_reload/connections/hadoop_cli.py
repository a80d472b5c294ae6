"""Connections of type `hadoop_cli`: HDFS and AFS by the Hadoop client of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.log import mask_secret

from airflow_serving_reload.connections.settings import hadoop_settings_of, seconds_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection) -> Store:
    """Open the file system that a Hadoop client leads to.

    The host is `fs_name`, and the password `fs_ugi`, so that Airflow encrypts and masks all of it. An empty host
    leaves the file system to the client's own configuration.
    """
    from airflow_serving_reload.delivery.stores.hadoop_cli import HadoopCliStore
    from airflow_serving_reload.delivery.stores.hadoop_client import HadoopClient

    fs_name, fs_ugi = connection.host or None, connection.password or None
    if fs_name and connection.port:
        # an address that was given as part of a URI comes in pieces
        fs_name = f"{fs_name}:{connection.port}"
    if fs_ugi:
        # Airflow knows the whole as a secret, but not its part
        mask_secret(fs_ugi.partition(",")[2])
    client = HadoopClient(
        hadoop_bin=connection.extra_dejson.get("hadoop_bin") or "hadoop",
        fs_name=fs_name,
        fs_ugi=fs_ugi,
        options=hadoop_settings_of(connection),
        timeout=seconds_of(connection, "timeout", default=60),
    )
    return HadoopCliStore(client)
