"""Connections of type `http`, by the hook of Airflow's provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_serving_reload.connections.settings import parallel_of, seconds_of, verification, with_connection
from airflow_serving_reload.delivery.servers.base import HttpClient

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection) -> Store:
    """Open a store over HTTP."""
    from airflow_serving_reload.delivery.stores.http import HttpStore

    parallel = parallel_of(connection)
    client = open_client(connection)
    store = HttpStore(client.session, client.base_url, timeout=client.timeout)
    store.parallel = parallel
    return store


def open_client(connection: Connection) -> HttpClient:
    """Open the way to a store or a server over HTTP; whoever gets it closes its session."""
    from airflow.providers.http.hooks.http import HttpHook

    hook = with_connection(HttpHook(http_conn_id=connection.conn_id), connection)
    session = hook.get_conn()
    # what the hook does not know of the extra it takes for a header
    session.headers.pop("parallel", None)
    session.verify = verification(session.verify)
    if connection.extra_dejson.get("timeout") is None:
        return HttpClient(session, hook.base_url)
    timeout = seconds_of(connection, "timeout", default=60)
    return HttpClient(session, hook.base_url, timeout=(timeout, timeout))
