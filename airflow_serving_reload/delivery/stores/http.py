"""A store behind HTTP: GET with ranges, listings by autoindex, uploads by PUT and MOVE."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
import urllib3

from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import SECOND_NS, Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.streams import CHUNK, Readable

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses by which a server says that the same request may succeed later."""

NO_SUCH_METHOD = frozenset({405, 501})

UNUSABLE_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.TooManyRedirects,
)


class HttpStore(Store):
    """Models and donefiles below one base address.

    :param session: opened by the caller, with authentication, TLS and proxies as they should be.
    :param base_url: address that every path is appended to.
    :param timeout: seconds to wait for a connection, and for each next piece of an answer.
    """

    def __init__(self, session: requests.Session, base_url: str, *, timeout: tuple[float, float] = (10, 60)) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout

    def close(self) -> None:
        """Close the session's connections."""
        self._session.close()

    def describe(self, path: str) -> str:
        """Name the address, without credentials that somebody may have put into it."""
        parts = urlsplit(self._base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{path}"

    def _url(self, path: str) -> str:
        return self._base_url + quote(path, safe="/")

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except _Answered as answer:
            raise answer.as_fault(doing) from None
        except UNUSABLE_ADDRESS as error:
            raise Refused(f"{doing}: {error}; check the connection's host and the path") from error
        except requests.exceptions.SSLError as error:
            raise Refused(f"{doing}: TLS was refused ({_root_cause(error)}); check the certificates") from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise StoreUnreachable(f"{doing}: the store cannot be reached ({_root_cause(error)})") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnreachable(f"{doing}: the transfer broke off ({_root_cause(error)})") from error

    def _request(self, method: str, url: str, **options: Any) -> requests.Response:
        response = self._session.request(method, url, timeout=self._timeout, **options)
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            response.close()
            raise _Answered(response)
        return response

    def _stat(self, path: str) -> FileFacts:
        return _facts(self._request("HEAD", self._url(path), headers=IDENTITY, allow_redirects=True))

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        headers = dict(IDENTITY)
        if offset and expected is not None and expected.etag is not None:
            headers |= {"Range": f"bytes={offset}-", "If-Range": expected.etag}
        with self._request("GET", self._url(path), headers=headers, stream=True) as response:
            partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
            facts = _facts(response)
            yield Opened(facts, _Body(response), offset if partial else 0)

    def _list(self, folder: str) -> list[Entry] | None:
        url = self._url(folder.rstrip("/") + "/")
        try:
            response = self._request("GET", url)
        except _Answered as answer:
            if answer.status == HTTPStatus.NOT_FOUND and self._is_file(folder):
                return None
            raise
        kind = response.headers.get("Content-Type", "")
        if not kind.startswith("text/html"):
            if self._is_file(folder):
                return None
            raise Refused(
                f"listing {self.describe(folder)}: the server answered with {kind or 'no type'}, not with a page of "
                "links; switch its autoindex on, or upload the model as one archive"
            )
        return _links(response.text, urlsplit(response.url).path)

    def _is_file(self, path: str) -> bool:
        """Whether the path without a slash at its end is a file: a folder would be redirected to its slash."""
        try:
            response = self._request("HEAD", self._url(path.rstrip("/")), headers=IDENTITY, allow_redirects=True)
        except _Answered:
            return False
        return not response.url.endswith("/")

    def _write(self, path: str, source: Readable) -> None:
        self._request("PUT", self._url(path), data=iter(lambda: source.read(CHUNK), b"")).close()

    def _can_rename(self, folder: str) -> bool:
        """Ask the server which methods it knows there, by moving a name that does not exist."""
        probe = self._url(f"{folder}/.no-such-upload")
        try:
            self._move(probe, f"{probe}.moved")
        except _Answered as answer:
            if answer.status in NO_SUCH_METHOD:
                return False
            if answer.status not in (404, 409):
                raise
        return True

    def _rename(self, source: str, target: str) -> None:
        self._move(self._url(source), self._url(target))

    def _move(self, source_url: str, target_url: str) -> None:
        self._request("MOVE", source_url, headers={"Destination": target_url, "Overwrite": "T"}).close()

    def _remove(self, path: str) -> None:
        self._request("DELETE", self._url(path)).close()


IDENTITY = {"Accept-Encoding": "identity"}
"""Asks for the file's own bytes, so that lengths, ranges and tags belong to them."""


class _Answered(Exception):
    """The server answered with a status that is a fault."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response.status_code)
        self.status = response.status_code
        self.reason = response.reason

    def as_fault(self, doing: str) -> DeliveryError:
        said = f"{doing}: the server answered {self.status} {self.reason}"
        if self.status in (404, 410):
            return NotThereYet(said)
        if self.status in BUSY:
            return StoreUnreachable(said)
        if self.status in (401, 403, 407):
            return Refused(f"{said}; check the connection's login and password, and what they may do")
        if self.status in NO_SUCH_METHOD:
            return Refused(f"{said}; the server does not allow this method here")
        return Refused(f"{said}; check the connection's host and the path")


class _Body:
    """The bytes of an answer as they were sent, no content encoding undone."""

    def __init__(self, response: requests.Response) -> None:
        self._raw = response.raw

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = self._raw.read(size if size >= 0 else None, decode_content=False)
        return data


def _facts(response: requests.Response) -> FileFacts:
    headers = response.headers
    if "Content-Range" in headers:
        total = headers["Content-Range"].rpartition("/")[2]
    else:
        total = headers.get("Content-Length", "")
    etag = headers.get("ETag")
    modified = _http_date(headers.get("Last-Modified"))
    return FileFacts(
        size=int(total) if total.isdigit() else None,
        mtime_ns=modified,
        resolution_ns=SECOND_NS,
        etag=etag if etag and not etag.startswith("W/") else None,
        observed_ns=_http_date(headers.get("Date")) or time.time_ns(),
    )


def _http_date(value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(parsedate_to_datetime(value).timestamp()) * SECOND_NS
    except ValueError:
        return None


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (target := dict(attrs).get("href")):
            self.targets.append(target)


def _links(page: str, folder_path: str) -> list[Entry]:
    """Read the entries of a folder out of an autoindex page: the links that lead exactly one name down."""
    anchors = _Anchors()
    anchors.feed(page)
    folder = unquote(folder_path)
    entries: dict[str, Entry] = {}
    for target in anchors.targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc or parts.query or not parts.path:
            continue
        path = unquote(parts.path)
        name = path.removeprefix(folder) if path.startswith("/") else path.removeprefix("./")
        is_folder = name.endswith("/")
        name = name.removesuffix("/")
        if name and "/" not in name and name not in (".", ".."):
            entries[name] = Entry(name, is_folder)
    return list(entries.values())


def _root_cause(error: BaseException) -> str:
    """Find the words of the fault that started it; the client's own wrap it several times."""
    seen: BaseException = error
    while True:
        reason = getattr(seen, "reason", None)
        inner = reason if isinstance(reason, BaseException) else (seen.__cause__ or seen.__context__)
        if inner is None:
            inner = next((part for part in seen.args if isinstance(part, BaseException)), None)
        if inner is None or inner is seen:
            return str(seen) or type(seen).__name__
        seen = inner
