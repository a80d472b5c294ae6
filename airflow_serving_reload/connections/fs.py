"""Connections of type `fs`: a folder of this host, or one that is mounted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_serving_reload.delivery.stores.base import Store


def open_store(connection: Connection) -> Store:
    """Open a store in a folder."""
    from airflow_serving_reload.delivery.stores.fs import FileSystemStore

    return FileSystemStore(Path(connection.extra_dejson.get("path") or "/"))
