"""A store in HDFS by WebHDFS: consistent reads with offsets, uploads that replace their target in one step."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from itertools import chain
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from hdfs import Client, HdfsError, InsecureClient
from requests.auth import HTTPBasicAuth

from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable
from airflow_serving_reload.delivery.requests_faults import faults_of_requests
from airflow_serving_reload.delivery.statuses import BUSY
from airflow_serving_reload.delivery.stores.base import MILLISECOND_NS, Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.stores.hadoop_faults import fault_of
from airflow_serving_reload.delivery.stores.requests_answers import Body, expect_whole_heads, retry_after
from airflow_serving_reload.delivery.streams import CHUNK, Readable

ANOTHER_KIND = "this is not how WebHDFS answers: check the connection's host, port and schema"


class WebHdfsStore(Store):
    """Models and donefiles of an HDFS.

    HDFS numbers its files and never gives a number again, so the number is the tag that tells two uploads apart,
    be they alike in everything else; it comes with the facts, while the file's checksum would cost two requests more.

    :param client: opened by the caller, by a function of this file.
    :param session: what the client sends its requests through.
    """

    def __init__(self, client: Client, session: WebHdfsSession) -> None:
        self._client = client
        self._session = session

    def close(self) -> None:
        """Close the session's connections."""
        self._session.close()

    def describe(self, path: str) -> str:
        """Name the addresses of the NameNodes and the path."""
        return ",".join(self._client.urls) + path

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        with faults_of_requests(doing):
            try:
                yield
            except HdfsError as error:
                raise fault_of(doing, error.exception or type(error).__name__, error.message) from None
            except _Busy as busy:
                raise StoreUnreachable(f"{doing}: {busy}; try again later", retry_after(busy.response)) from None
            except IsADirectoryError as error:
                raise Refused(f"{doing}: it is a folder; name a file") from error
            except _NotWebHdfs as answer:
                raise Refused(f"{doing}: the server answered {answer}; {answer.advice}") from None
            except (requests.JSONDecodeError, KeyError, TypeError) as error:
                raise Refused(
                    f"{doing}: the server answered something else than it was asked; {ANOTHER_KIND}"
                ) from error

    def _stat(self, path: str) -> FileFacts:
        status = self._client.status(path)
        if status["type"] == "DIRECTORY":
            raise IsADirectoryError(path)
        return _facts(status)

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        """Open a file; since its bytes come without its facts, these are asked for before and behind."""
        facts = self._stat(path)
        with ExitStack() as stack:
            while offset < (facts.size or 0):
                reader = stack.enter_context(self._client.read(path, offset=offset))
                before, facts = facts, self._stat(path)
                if facts == before:
                    yield Opened(facts, Body(reader), offset)
                    return
                stack.close()
            # there is nothing to read, and a DataNode would take offence at the question
            yield Opened(facts, io.BytesIO(), offset)

    def _can_part(self, facts: FileFacts) -> bool:
        return facts.etag is not None

    @contextmanager
    def _open_part(self, path: str, first: int, end: int, expected: FileFacts) -> Iterator[Opened]:
        """Open a part; that its facts are the expected ones behind it proves it, since they were before."""
        with self._client.read(path, offset=first, length=end - first) as reader:
            yield Opened(self._stat(path), Body(reader), first)

    def _list(self, folder: str) -> list[Entry] | None:
        folder = folder.rstrip("/") or "/"
        if self._client.status(folder)["type"] == "FILE":
            return None
        return [Entry(name, status["type"] == "DIRECTORY") for name, status in self._client.list(folder, status=True)]

    def _scan(self, folder: str) -> Mapping[str, FileFacts]:
        listed = self._client.list(folder.rstrip("/") or "/", status=True)
        return {name: _facts(status) for name, status in listed if status["type"] == "FILE"}

    def _write(self, path: str, source: Readable) -> None:
        # First without content: what a DataNode has against it while content comes is lost with the connection.
        self._client.write(path, b"", overwrite=True)
        pieces = iter(lambda: source.read(CHUNK), b"")
        if (first := next(pieces, b"")) == b"":
            return
        # Then only in its place: a DataNode that comes to it after the upload was given up and removed makes nothing.
        place = self._client._create(path, overwrite=True, createflag="OVERWRITE").headers["location"]
        answer = self._client._request("PUT", place, data=chain([first], pieces))
        if not answer.ok:
            raised = answer.json()["RemoteException"]
            raise HdfsError(raised["message"], exception=raised["exception"])

    def _rename(self, source: str, target: str) -> None:
        # what is renamed to a folder may go into it
        self._refuse_folder(target)
        sent = _facts(self._client.status(source))
        try:
            # the library's own rename does not know the option that replaces the target in the same step
            answer = self._client._rename(source, destination=target, renameoptions="OVERWRITE")
            if answer.content and not answer.json()["boolean"]:
                # it fails where the source is gone: then nothing could come in the place of the target
                self._client.status(source)
                # a gateway that does not know it either: for a moment there is no target, as in the seed's example
                self._client.delete(target)
                self._client.rename(source, target)
        except HdfsError:
            if not self._is_renamed(sent, source, target):
                raise

    def _is_renamed(self, sent: FileFacts, source: str, target: str) -> bool:
        """Whether it was done: the library says again, to the next server, what had its answer lost on the way."""
        if self._client.status(source, strict=False):
            return False
        status = self._client.status(target, strict=False)
        # behind a gateway may be a file system that stamps what it renames anew
        return status is not None and (_facts(status).size, _facts(status).etag) == (sent.size, sent.etag)

    def _refuse_folder(self, path: str) -> None:
        status = self._client.status(path, strict=False)
        if status and status["type"] == "DIRECTORY":
            raise IsADirectoryError(path)

    def _remove(self, path: str) -> None:
        self._refuse_folder(path)
        self._client.delete(path)


def _facts(status: Mapping[str, Any]) -> FileFacts:
    number = status.get("fileId")
    return FileFacts(
        size=status["length"],
        mtime_ns=status["modificationTime"] * MILLISECOND_NS,
        resolution_ns=MILLISECOND_NS,
        etag=str(number) if number else None,
    )


class WebHdfsSession(requests.Session):
    """A session that takes answers of WebHDFS for such and no others, and keeps its password to the servers it is for.

    :param password: login and password for a gateway, as basic authentication has them.
    :param hosts: addresses `host:port` that the password is for.
    """

    def __init__(self, password: tuple[str, str] | None = None, hosts: Sequence[str] = ()) -> None:
        super().__init__()
        expect_whole_heads(self)
        self.hooks["response"].append(_keep_name)
        if password:
            self.auth = _PasswordFor(hosts, *password)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        """Make a request.

        :raises requests.ConnectionError: the server is busy, so that the client turns to the next one.
        """
        # said with each request, because the environment's authorities would count more than the session's
        options.setdefault("verify", self.verify)
        response = super().request(method, url, *args, **options)
        if response.status_code >= HTTPStatus.BAD_REQUEST and not _is_of_webhdfs(response):
            response.close()
            if response.status_code in BUSY:
                raise _Busy(f"the server answered {response.status_code} {response.reason}", response=response)
            raise _NotWebHdfs(response)
        return response


class _PasswordFor(HTTPBasicAuth):
    """A password that is for some hosts only, whoever a server redirects to."""

    def __init__(self, hosts: Sequence[str], login: str, password: str) -> None:
        super().__init__(login, password)
        # as addresses are written in requests
        self._hosts = frozenset(host.lower() for host in hosts)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if urlsplit(str(request.url)).netloc in self._hosts:
            super().__call__(request)  # type: ignore[no-untyped-call]
        return request


class _Busy(requests.ConnectionError):
    """A server is busy, as a gateway says it, so that the client turns to the next one."""


class _NotWebHdfs(Exception):
    """A server answered with a fault in words other than WebHDFS's."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"{response.status_code} {response.reason}")
        if response.status_code in (401, 403, 407):
            self.advice = "check the connection's login and password, and whether the cluster wants Kerberos"
        else:
            self.advice = ANOTHER_KIND


def _keep_name(response: requests.Response, **_options: Any) -> None:
    """Put the path that was asked for into a redirection in which it is composed anew, as Java does with accents."""
    location = urlsplit(response.headers.get("Location", ""))
    asked = urlsplit(str(response.request.url)).path
    if asked != location.path and normalize("NFC", unquote(asked)) == unquote(location.path):
        response.headers["Location"] = urlunsplit(location._replace(path=asked))


def _is_of_webhdfs(response: requests.Response) -> bool:
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        return False
    try:
        return isinstance(response.json()["RemoteException"]["message"], str)
    except (ValueError, KeyError, TypeError):
        return False


class _PlainNames:
    """Takes names as they are; the library would put the newest file of a folder in the place of `#LATEST`."""

    def resolve(self, hdfs_path: str) -> str:
        return hdfs_path


class _InsecureClient(_PlainNames, InsecureClient):  # type: ignore[misc]
    """A client that says who asks, and is believed."""


def insecure_client(
    addresses: Sequence[str], user: str | None, session: WebHdfsSession, timeout: tuple[float, float]
) -> Client:
    """Open a client of a cluster that believes who asks.

    :param addresses: of the NameNodes; whichever is down or stands by is passed over.
    :param user: who asks; None for the user whom this process belongs to.
    :param timeout: seconds to wait for a connection, and for each next piece of an answer.
    """
    return _InsecureClient(";".join(addresses), user=user, session=session, timeout=timeout)


def kerberos_client(addresses: Sequence[str], session: WebHdfsSession, timeout: tuple[float, float]) -> Client:
    """Open a client of a cluster that wants Kerberos, with the ticket of whoever runs this process.

    :param addresses: of the NameNodes; whichever is down or stands by is passed over.
    :param timeout: seconds to wait for a connection, and for each next piece of an answer.
    """
    from hdfs.ext.kerberos import KerberosClient

    class TicketClient(_PlainNames, KerberosClient):  # type: ignore[misc]
        """A client that proves who asks."""

    return TicketClient(";".join(addresses), session=session, timeout=timeout)
