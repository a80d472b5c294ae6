"""From a connection id to a store: the only place that reads secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from airflow.sdk import BaseHook

from airflow_serving_reload.delivery.errors import Refused

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


OPENERS: dict[str, Callable[[Connection], Store]] = {"http": _http, "fs": _fs}
"""Connection type to what opens its store."""


def _known() -> str:
    return f"a connection of type {' or '.join(sorted(OPENERS))}"


def _for(hook: Hook, connection: Connection) -> Hook:
    """Make a hook use a connection that is at hand: in a triggerer it must not be looked up again, and blockingly."""
    setattr(hook, "get_connection", lambda _conn_id: connection)  # noqa: B010 - it is a class method to mypy
    return hook
