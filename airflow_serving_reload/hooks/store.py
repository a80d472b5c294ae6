"""One hook for each connection type that leads to a store and that no provider of Airflow brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.stores.base import Store


class StoreHook(BaseHook):
    """Opens the store that a connection leads to.

    :param conn_id: the connection.
    """

    conn_name_attr = "conn_id"

    def __init__(self, conn_id: str) -> None:
        super().__init__()
        self.conn_id = conn_id

    def get_conn(self) -> Store:
        """Open the store.

        :raises Refused: a field of the connection is no good.
        """
        from airflow_serving_reload.connections import open_store

        return open_store(self.conn_id, "/")

    def test_connection(self) -> tuple[bool, str]:
        """List the root, and say what is there or what is wrong."""
        from airflow_serving_reload.delivery.errors import DeliveryError

        try:
            with self.get_conn() as store:
                entries = store.list("/") or ()
                return True, f"{store.describe('/')} answers; files and folders in it: {len(entries)}"
        except DeliveryError as fault:
            return False, str(fault)


class HadoopCliHook(StoreHook):
    """HDFS or AFS by the Hadoop client of the host."""

    conn_type = "hadoop_cli"
    default_conn_name = "hadoop_cli_default"
    hook_name = "HDFS or AFS by the Hadoop client"


class HdfsNativeHook(StoreHook):
    """HDFS by its native protocol."""

    conn_type = "hdfs_native"
    default_conn_name = "hdfs_native_default"
    hook_name = "HDFS by its native protocol"


class WebHdfsHook(StoreHook):
    """HDFS by WebHDFS."""

    conn_type = "webhdfs"
    default_conn_name = "webhdfs_default"
    hook_name = "HDFS by WebHDFS"
