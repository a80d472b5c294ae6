"""What the connections of several transports have in common: hosts, times and certificates in their settings."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.delivery.stores.parallel import MOST_CONNECTIONS, Parallel

if TYPE_CHECKING:
    from airflow.sdk import BaseHook, Connection

Hook = TypeVar("Hook", bound="BaseHook")

CONNECTIONS = 8
"""By how many connections one large file comes where it comes slowly, unless the connection says otherwise."""


def _setting(connection: Connection, name: str, default: Any) -> Any:
    """Read a setting of a connection's extra; Airflow's page stores fields that were left empty as null."""
    value = connection.extra_dejson.get(name)
    return default if value is None or (isinstance(value, str) and not value.strip()) else value


def seconds_of(connection: Connection, name: str, *, default: float) -> float:
    """Read a time of a connection's extra, in seconds.

    :raises Refused: it is no time.
    """
    value = _setting(connection, name, default)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: {name} in its extra is {value!r}; set a number of seconds"
        )
    return seconds


def parallel_of(connection: Connection) -> Parallel:
    """Read by how many connections one large file may come, `parallel` in a connection's extra.

    :raises Refused: it is no such number.
    """
    value = _setting(connection, "parallel", CONNECTIONS)
    told = str(value)
    if not told.isascii() or not told.isdecimal() or not 1 <= int(told) <= MOST_CONNECTIONS:
        raise Refused(
            f"opening the connection {connection.conn_id!r}: parallel in its extra is {value!r}; set it to the number "
            f"of connections that one large file may come by, from 1 to {MOST_CONNECTIONS}"
        )
    return Parallel(int(told))


def namenodes_of(connection: Connection, port: int | None) -> list[str]:
    """Give the addresses among which commas stand in the host of a connection.

    :param port: of those that have none of their own where the connection has none either.
    :raises Refused: there is none.
    """
    hosts = [host.strip() for host in (connection.host or "").split(",") if host.strip()]
    if not hosts:
        raise Refused(f"opening the connection {connection.conn_id!r}: it has no host; set it to that of the NameNode")
    port = connection.port or port
    addresses = (host if port is None or re.search(r":\d+$", host) else f"{host}:{port}" for host in hosts)
    # the client of WebHDFS would look for one that it has not asked for ever
    return list(dict.fromkeys(addresses))


def hadoop_settings_of(connection: Connection) -> dict[str, str]:
    """Read Hadoop's settings by their names, `config` in a connection's extra.

    :raises Refused: it is no object of JSON.
    """
    value = connection.extra_dejson.get("config") or {}
    try:
        settings = json.loads(value) if isinstance(value, str) else value
        return {name: _as_hadoop_writes(setting) for name, setting in settings.items()}
    except (ValueError, AttributeError):
        raise Refused(
            f"opening the connection {connection.conn_id!r}: config in its extra is no object of JSON; "
            'set it to Hadoop\'s settings by their names, such as {"dfs.replication": "2"}'
        ) from None


def _as_hadoop_writes(setting: Any) -> str:
    return str(setting).lower() if isinstance(setting, bool) else str(setting)


def verification_of(connection: Connection) -> bool | str:
    """Read whether to verify certificates, `verify` in a connection's extra."""
    return verification(connection.extra_dejson.get("verify"))


def verification(value: Any) -> bool | str:
    """Read whether to verify certificates: a truth value, as text too, or the file or folder of the authorities.

    Whatever is empty verifies, since only who says so may switch it off.
    """
    told = str(value).strip().lower()
    if isinstance(value, str) and told not in ("", "true", "false"):
        return value
    return told not in ("false", "0")


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import what not every installation has.

    :param name: the extra of this package that brings it.
    :raises Refused: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise Refused(
            f"opening the connection: {error}; install it by `pip install 'airflow-serving-reload[{name}]'`"
        ) from error


def with_connection(hook: Hook, connection: Connection) -> Hook:
    """Make a hook use a connection that is at hand: in a triggerer it must not be looked up again, and blockingly."""
    setattr(hook, "get_connection", lambda _conn_id: connection)  # noqa: B010 - it is a class method to mypy
    return hook
