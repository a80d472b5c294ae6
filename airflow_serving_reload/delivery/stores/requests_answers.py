"""Answers of HTTP servers as they come: heads that must be whole, bodies in pieces, dates, and when to come again."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse, RemoteDisconnected
from typing import BinaryIO

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3 import HTTPResponse as Raw
from urllib3.connection import HTTPConnection, HTTPSConnection

from airflow_serving_reload.delivery.stores.base import SECOND_NS


class Body:
    """The bytes of an answer as they were sent, no content encoding undone.

    They are given as they come: what came before a fault is not lost with it.

    :param raw: the answer.
    """

    def __init__(self, raw: Raw) -> None:
        self._raw = raw

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes, everything that is left if negative."""
        if size < 0:
            return self._raw.read(decode_content=False)
        return self._raw.read1(size, decode_content=False)


def http_date(value: str | None) -> int | None:
    """Read a date, in nanoseconds since the epoch; None if it is none."""
    if value is None:
        return None
    try:
        return int(parsedate_to_datetime(value).timestamp()) * SECOND_NS
    except ValueError:
        return None


def retry_after(response: requests.Response | None) -> float:
    """Give the seconds after which a server wants to be asked again; none if it does not say."""
    # an answer that is a fault is false
    if response is None:
        return 0.0
    told = response.headers.get("Retry-After", "")
    if told.isascii() and told.isdecimal():
        return float(told)
    now = http_date(response.headers.get("Date")) or time.time_ns()
    return max(0.0, ((http_date(told) or now) - now) / SECOND_NS)


def expect_whole_heads(session: requests.Session) -> None:
    """Have a session's answers broken off where their heads are; the library takes what has come for a whole head."""
    for adapter in session.adapters.values():
        if isinstance(adapter, HTTPAdapter):
            _with_whole_heads(adapter.poolmanager)
            adapter.proxy_manager_for = _making_whole_heads(adapter.proxy_manager_for)  # type: ignore[method-assign]


def _with_whole_heads(pools: PoolManager) -> PoolManager:
    # other pools, such as those for SOCKS, know ways of their own to the server
    ours = {HTTPConnectionPool: _Pool, HTTPSConnectionPool: _TlsPool}
    pools.pool_classes_by_scheme = {
        scheme: ours.get(pool, pool) for scheme, pool in pools.pool_classes_by_scheme.items()
    }
    return pools


def _making_whole_heads(make_pools: Callable[..., PoolManager]) -> Callable[..., PoolManager]:
    return lambda *arguments, **options: _with_whole_heads(make_pools(*arguments, **options))


class _Lines:
    """The lines of a head, each of which must have come to its end."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readline(self, limit: int = -1, /) -> bytes:
        line = self._source.readline(limit)
        if not line.endswith(b"\n") and len(line) != limit:
            raise RemoteDisconnected("the server hung up before its answer began")
        return line

    def close(self) -> None:
        self._source.close()


class _Response(HTTPResponse):
    def begin(self) -> None:
        source = self.fp
        self.fp = _Lines(source)  # type: ignore[assignment]  # it can all that is asked of it
        try:
            super().begin()
        finally:
            if self.fp is not None:
                self.fp = source


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
