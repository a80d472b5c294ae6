"""A store behind HTTP: GET with ranges, listings by autoindex, uploads by PUT and MOVE."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.structures import CaseInsensitiveDict

from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.requests_faults import faults_of_requests, without_credentials
from airflow_serving_reload.delivery.statuses import BUSY
from airflow_serving_reload.delivery.stores.base import SECOND_NS, Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.stores.http_pages import links_of, rows_of
from airflow_serving_reload.delivery.stores.requests_answers import Body, expect_whole_heads, http_date, retry_after
from airflow_serving_reload.delivery.streams import CHUNK, Readable

NO_SUCH_METHOD = frozenset({405, 501})

TURNED_AWAY = frozenset({401, 407})

INDEX_PAGES = ("index.html", "index.htm")
"""Files that servers send in place of the listing of their folder."""


class HttpStore(Store):
    """Models and donefiles below one base address.

    :param session: opened by the caller, with authentication, TLS and proxies as they should be.
    :param base_url: address that every path is appended to.
    :param timeout: seconds to wait for a connection, and for each next piece of an answer.
    :raises Refused: the address is no URL.
    """

    def __init__(self, session: requests.Session, base_url: str, *, timeout: tuple[float, float] = (10, 60)) -> None:
        expect_whole_heads(session)
        self._session = session
        self._base_url = base_url.rstrip("/")
        try:
            self._public_url = without_credentials(self._base_url)
        except ValueError:
            raise Refused("opening a store over HTTP: its address is no URL; check the connection's host") from None
        self._timeout = timeout

    def close(self) -> None:
        """Close the session's connections."""
        self._session.close()

    def describe(self, path: str) -> str:
        """Name the address, without credentials that somebody may have put into it."""
        return self._public_url + path

    def _url(self, path: str) -> str:
        return self._base_url + _quoted(path)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        with faults_of_requests(doing):
            try:
                yield
            except _Answered as answer:
                raise answer.as_fault(doing) from None
            except IsADirectoryError as error:
                raise Refused(f"{doing}: it is a folder; name a file") from error

    @cached_property
    def _environment(self) -> dict[str, Any]:
        """Proxies and authorities; to read them costs a fifth of a request, so they are read once for all."""
        # the session's own are said here, because the environment's would count more
        settings = self._session.merge_environment_settings(
            self._base_url, dict(self._session.proxies), None, self._session.verify, None
        )
        return {name: settings[name] for name in ("proxies", "verify", "cert")}

    @cached_property
    def _headers(self) -> CaseInsensitiveDict[str] | None:
        """What the session says with each question about a file; None if it says something else each time."""
        if not isinstance(self._session.auth, tuple | HTTPBasicAuth | None):
            return None
        return self._session.prepare_request(requests.Request("HEAD", self._base_url, headers=AS_IT_IS)).headers

    def _ask_shortly(self, url: str) -> requests.Response | None:
        """Ask for the facts of a file for half of what the session takes, whose work is the same for all of them.

        :return: the answer; None if only the session can come to it.
        """
        if self._headers is None or self._session.cookies:
            return None
        request = requests.PreparedRequest()
        request.method, request.url, request.headers = "HEAD", url, self._headers
        adapter = self._session.get_adapter(url)
        response = adapter.send(request, timeout=self._timeout, **self._environment)
        if response.is_redirect or response.status_code in TURNED_AWAY or response.cookies:
            response.close()
            return None
        # there is none, but whoever has read it gives the connection back
        _ = response.content
        return response

    def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Iterator[bytes] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """Make a request; only reading follows redirects, since a redirected upload may end as a mere question."""
        response = self._ask_shortly(url) if method == "HEAD" else None
        if response is None:
            request = self._session.prepare_request(requests.Request(method, url, headers=headers, data=data))
            response = self._session.send(
                request,
                timeout=self._timeout,
                allow_redirects=method in ("GET", "HEAD"),
                stream=stream,
                **self._environment,
            )
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            response.close()
            raise _Answered(response)
        return response

    def _request_file(self, method: str, path: str, **options: Any) -> requests.Response:
        """Make a request about a file; a folder is known by the slash that the server redirects to."""
        try:
            response = self._request(method, self._url(path), **options)
        except _Answered as answer:
            if _is_folder(answer.url):
                raise IsADirectoryError(path) from None
            raise
        if _is_folder(response.url):
            response.close()
            raise IsADirectoryError(path)
        return response

    def _stat(self, path: str) -> FileFacts:
        return _facts(self._request_file("HEAD", path, headers=AS_IT_IS))

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        condition = {}
        if offset and expected is not None and (validator := _validator(expected)):
            condition = {"Range": f"bytes={offset}-", "If-Range": validator}
        with self._opened(path, condition) as opened:
            yield opened

    def _can_part(self, facts: FileFacts) -> bool:
        return facts.etag is not None

    def _open_part(self, path: str, first: int, end: int, expected: FileFacts) -> AbstractContextManager[Opened]:
        return self._opened(path, {"Range": f"bytes={first}-{end - 1}", "If-Range": str(expected.etag)})

    @contextmanager
    def _opened(self, path: str, condition: Mapping[str, str]) -> Iterator[Opened]:
        with self._request_file("GET", path, headers={**AS_IT_IS, **condition}, stream=True) as response:
            facts = _facts(response)
            if not _tells_its_end(response):
                raise Refused(
                    f"opening {self.describe(path)}: the server does not tell its length, so that a transfer that "
                    "breaks off would look complete; let the server send Content-Length"
                )
            yield Opened(facts, Body(response.raw), _first_byte(response))

    def _list(self, folder: str) -> list[Entry] | None:
        doing = f"listing {self.describe(folder)}"
        advice = "switch its listings (autoindex) on, or upload the model as one archive"
        folder = folder.rstrip("/")
        try:
            response = self._request("GET", self._url(f"{folder}/"), headers=AS_IT_IS, stream=True)
        except _Answered as answer:
            if answer.status in (403, 404) and self._is_file(folder):
                return None
            if answer.status == HTTPStatus.FORBIDDEN:
                raise Refused(
                    f"{doing}: the server answered {answer}; {advice}, or check what the login may do"
                ) from None
            raise
        with response:
            kind = response.headers.get("Content-Type", "no type")
            if not kind.startswith("text/html"):
                if self._is_file(folder):
                    return None
                raise Refused(f"{doing}: the server answered with {kind}, not with a page of links; {advice}")
            if (page := self._index_page(folder, _facts(response))) is not None:
                raise Refused(
                    f"{doing}: the server sends the file {page} in place of the names of the others; "
                    "rename that file, or upload the model as one archive"
                )
            return links_of(_page(response), urlsplit(response.url).path)

    def _scan(self, folder: str) -> Mapping[str, FileFacts] | None:
        url = self._url(f"{folder.rstrip('/')}/")
        with self._request("GET", url, headers=AS_IT_IS, stream=True) as response:
            # a page with a time or a tag is a file in the place of the listing
            if _facts(response).mtime_ns is not None or "ETag" in response.headers:
                return None
            if not response.headers.get("Content-Type", "").startswith("text/html"):
                return None
            return rows_of(_page(response))

    def _is_file(self, path: str) -> bool:
        try:
            self._request_file("HEAD", path, headers=AS_IT_IS)
        except (_Answered, IsADirectoryError):
            return False
        return True

    def _index_page(self, folder: str, answered: FileFacts) -> str | None:
        """Give the name of the file that the server sent when it was asked for the folder; None if it listed it."""
        for name in INDEX_PAGES if answered != FileFacts(resolution_ns=SECOND_NS) else ():
            try:
                if self._stat(f"{folder}/{name}") == answered:
                    return name
            except (_Answered, IsADirectoryError):
                continue
        return None

    def _write(self, path: str, source: Readable) -> None:
        self._request("PUT", self._url(path), data=iter(lambda: source.read(CHUNK), b"")).close()

    def _can_rename(self, folder: str) -> bool:
        """Ask the server which methods it knows there, by moving a name that does not exist."""
        probe = f"{folder}/.no-such-upload"
        try:
            self._move(probe, f"{probe}.moved")
        except _Answered as answer:
            if answer.status in TURNED_AWAY or answer.status in BUSY:
                raise
            return answer.status in (404, 409)
        return True

    def _rename(self, source: str, target: str) -> None:
        self._spare_folder(target)
        try:
            self._move(source, target)
        except _Answered as answer:
            # a proxy whose server is down says the same, but then nobody has the source
            if answer.status != HTTPStatus.BAD_GATEWAY or not self._is_file(source):
                raise
            raise Refused(
                f"uploading {self.describe(target)}: the server answered {answer} to MOVE, as to a Destination that is "
                "not its own; let the proxy before it rewrite that header (Apache: RequestHeader edit Destination "
                "^https http early)"
            ) from None

    def _move(self, source: str, target: str) -> None:
        headers = {"Destination": self._public_url + _quoted(target), "Overwrite": "T"}
        self._request("MOVE", self._url(source), headers=headers).close()

    def _remove(self, path: str) -> None:
        self._spare_folder(path)
        try:
            self._request("DELETE", self._url(path)).close()
        except _Answered as answer:
            if answer.status != HTTPStatus.NOT_FOUND:
                raise

    def _spare_folder(self, path: str) -> None:
        """Fail for a folder, which WebDAV would have the server delete with all that is in it."""
        try:
            self._request_file("HEAD", path, headers=AS_IT_IS)
        except _Answered as answer:
            # some servers do not know the question, and say so by 500; one that is busy has not said that it is none
            if answer.status in BUSY - {HTTPStatus.INTERNAL_SERVER_ERROR}:
                raise


AS_IT_IS = {"Accept-Encoding": "identity", "Cache-Control": "no-cache"}
"""Asks for the file's own bytes, so that lengths, ranges and tags belong to them, and as it is at the server now.

A cache on the way may answer if it has asked the server whether they are still the same; else a listing could be newer
than the donefile, and the donefile newer than its model.
"""


class _Answered(Exception):
    """The server answered with a status that is a fault."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"{response.status_code} {response.reason}")
        self.status = response.status_code
        self.method = response.request.method
        self.url = response.url
        self.location = response.headers.get("Location")
        self.retry_after = retry_after(response)

    def as_fault(self, doing: str) -> DeliveryError:
        said = f"{doing}: the server answered {self}"
        if self.status in (404, 410):
            return NotThereYet(f"{said}; check the path if it should be there")
        if self.status in BUSY:
            return StoreUnreachable(f"{said}; try again later", self.retry_after)
        if self.location is not None and self.status < HTTPStatus.BAD_REQUEST:
            return Refused(f"{said} to {without_credentials(self.location)}; give the connection that address")
        return Refused(f"{said}; {self._advice()}")

    def _advice(self) -> str:
        if self.status in (401, 403, 407):
            return "check the connection's login and password, and what they may do"
        if self.status in NO_SUCH_METHOD:
            return f"let the server allow {self.method} here, as WebDAV does"
        if self.status == HTTPStatus.CONFLICT:
            return "check that the folder above is there and that no folder has this name"
        if self.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return "raise the server's limit for uploads (nginx: client_max_body_size)"
        return "check the connection's host and the path"


def _facts(response: requests.Response) -> FileFacts:
    headers = response.headers
    if "Content-Range" in headers:
        total = headers["Content-Range"].rpartition("/")[2]
    else:
        total = headers.get("Content-Length", "")
    etag = headers.get("ETag")
    modified = http_date(headers.get("Last-Modified"))
    return FileFacts(
        size=int(total) if total.isdecimal() else None,
        mtime_ns=modified,
        resolution_ns=SECOND_NS,
        etag=etag if etag and not etag.startswith("W/") else None,
        observed_ns=http_date(headers.get("Date")) or time.time_ns(),
    )


def _tells_its_end(response: requests.Response) -> bool:
    """Whether an answer that is cut off differs from a whole one."""
    return _facts(response).size is not None or "chunked" in response.headers.get("Transfer-Encoding", "")


def _page(response: requests.Response) -> str:
    """Read a page of links.

    :raises requests.RequestException: nobody tells its length, and it does not end as a page does.
    """
    page = response.text
    if _tells_its_end(response) or page.rstrip().lower().endswith("</html>"):
        return page
    raise requests.RequestException("the page of links has no end")


def _validator(facts: FileFacts) -> str | None:
    """Give what makes the server send a part only if the file is still the one of these facts."""
    if facts.etag is not None or facts.mtime_ns is None:
        return facts.etag
    return formatdate(facts.mtime_ns / SECOND_NS, usegmt=True)


def _first_byte(response: requests.Response) -> int:
    """Give the position in the file of the first byte of an answer."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return 0
    told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if told is None:
        raise _Answered(response)
    return int(told[1])


def _quoted(path: str) -> str:
    return quote(path, safe="/", errors="surrogateescape")


def _is_folder(url: str) -> bool:
    return urlsplit(url).path.endswith("/")
