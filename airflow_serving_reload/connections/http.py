"""Connections of type `http`, by the hook of Airflow's provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_serving_reload.connections.settings import seconds_of, with_connection

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection) -> Store:
    """Open a store over HTTP."""
    from airflow.providers.http.hooks.http import HttpHook

    from airflow_serving_reload.delivery.stores.http import HttpStore

    hook = with_connection(HttpHook(http_conn_id=connection.conn_id), connection)
    session = hook.get_conn()
    if connection.extra_dejson.get("timeout") is None:
        return HttpStore(session, hook.base_url)
    timeout = seconds_of(connection, "timeout", default=60)
    return HttpStore(session, hook.base_url, timeout=(timeout, timeout))
