"""From a connection id to a store, one file per transport, or to a server: the only place that reads secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Self, cast, overload

from airflow.sdk import BaseHook

from airflow_serving_reload.delivery.errors import Refused

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.servers.base import HttpClient, ModelServer, ServerDescription
    from airflow_serving_reload.delivery.stores.base import Store

TYPES = ("fs", "ftp", "hadoop_cli", "hdfs_native", "http", "webhdfs")
"""Connection types, each with a file of its name here, whose `open_store` opens the store that one leads to."""


def open_store(conn_id: str, remote_path: str) -> Store:
    """Open the store that a connection leads to.

    :param conn_id: Airflow connection; its type decides the transport.
    :param remote_path: folder in the store; one with a scheme decides the transport instead.
    :raises Refused: there is no store for this type, or what it needs is not installed.
    """
    return _store_of(BaseHook.get_connection(conn_id), remote_path)


@dataclass(frozen=True)
class StoreOpener:
    """What opens the store that a connection leads to, in whatever thread, again and again; equal ones open the same.

    :param connection: as it was read.
    :param remote_path: folder in the store.
    """

    connection: Connection = field(repr=False)
    remote_path: str

    @classmethod
    async def read(cls, conn_id: str, remote_path: str) -> Self:
        """Read a connection without blocking, as a triggerer has to."""
        return cls(await BaseHook.aget_connection(conn_id), remote_path)

    def __call__(self) -> Store:
        """Open it.

        :raises Refused: there is no store for this type, or what it needs is not installed.
        """
        return _store_of(self.connection, self.remote_path)


@overload
def open_server(description: ServerDescription) -> AbstractContextManager[ModelServer]: ...


@overload
def open_server(description: ServerDescription | None) -> AbstractContextManager[ModelServer | None]: ...


def open_server(description: ServerDescription | None) -> AbstractContextManager[ModelServer | None]:
    """Open the way to a server, for as long as the context lasts.

    :param description: where it is; None if nobody is to be asked.
    :raises Refused: its connection does not lead to it.
    """
    return nullcontext() if description is None else description.open(open_session)


@contextmanager
def open_session(conn_id: str) -> Iterator[HttpClient]:
    """Open a session over HTTP, for as long as the context lasts.

    :param conn_id: Airflow connection of type `http`.
    :raises Refused: it is of another type.
    """
    from airflow_serving_reload.connections import http

    connection = BaseHook.get_connection(conn_id)
    if connection.conn_type != "http":
        raise Refused(
            f"opening the connection {conn_id!r}: its type is {connection.conn_type!r}, but the server speaks HTTP; "
            "use a connection of type http"
        )
    client = http.open_client(connection)
    with client.session:
        yield client


def _store_of(connection: Connection, remote_path: str) -> Store:
    if "://" in remote_path:
        from airflow_serving_reload.connections import object_storage

        return object_storage.open_store(connection, remote_path)
    if connection.conn_type not in TYPES:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: its type is {connection.conn_type!r}, for which there is "
            f"no store; use a connection of type {', '.join(TYPES[:-1])} or {TYPES[-1]}, or a remote_path with a "
            "scheme, such as s3://"
        )
    return cast("Store", import_module(f"{__name__}.{connection.conn_type}").open_store(connection))
