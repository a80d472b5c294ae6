"""A store behind FTP or FTPS: transfers that go on after a break, listings in every form, uploads that appear whole."""

from __future__ import annotations

import codecs
import ftplib
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.stores.ftp_answers import (
    Listed,
    UnknownForm,
    from_columns,
    from_facts,
    size_of,
    time_of,
    without_dots,
)
from airflow_serving_reload.delivery.streams import CHUNK, Readable

UNKNOWN = frozenset({"500", "502", "504"})
"""Replies to a command that the server does not know."""

UNAVAILABLE = frozenset({"450", "550", "551", "553"})
"""Replies to a path that is absent, or is a folder, or is closed to the login: servers have one for all."""

COMPLETE = frozenset({"226", "250"})
"""Replies by which a server says that a transfer is whole."""

BLOCK = 1 << 16
"""Bytes sent at a time; however slow the line, so few must get away within the timeout."""

LOGIN = frozenset({"530", "532", "533", "534", "521", "522"})
"""Replies to who has not logged in, or not in the way that the server wants."""

FULL = re.compile("too many|maximum number", re.IGNORECASE)
"""Words of servers, such as ProFTPD, that refuse a login for the number of those who are there."""

LOST = (ftplib.Error, UnicodeError, EOFError, OSError)
"""What a client raises that has lost its server."""

BROKEN_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Ends of a connection, as against a certificate or a protocol that is no good."""


Answer = TypeVar("Answer")


class FtpOverTls(ftplib.FTP_TLS):
    """A client that protects every data connection, in the TLS session of the control connection.

    Many servers take no other session: it proves that both connections are the same client's.
    """

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """Begin a transfer."""
        data, size = ftplib.FTP.ntransfercmd(self, cmd, rest)  # noqa: S321 - what comes of it is wrapped below
        session = self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None
        try:
            return self.context.wrap_socket(data, server_hostname=self.host, session=session), size
        except BaseException:
            data.close()
            raise


class FtpStore(Store):
    """Models and donefiles on one FTP server.

    Every connection serves one transfer, or one question, at a time; a further one is opened where it is needed, as
    in the place of one that the server has closed because nothing came. FTP has no clock to ask, so that of this host
    stands in for the server's.

    :param connect: makes a client that is connected, logged in and waits for nothing for ever.
    :param url: names the server in messages, without any secret in it.
    """

    def __init__(self, connect: Callable[[], ftplib.FTP], url: str) -> None:
        self._connect = connect
        self._url = url
        self._idle: list[ftplib.FTP] = []
        self._unknown: set[str] = set()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def describe(self, path: str) -> str:
        """Name the address."""
        return self._url + path

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotThereYet(
                f"{doing}: there is none, or none that this login is shown; check the path if it should be there"
            ) from None
        except IsADirectoryError:
            raise Refused(f"{doing}: it is a folder; name a file") from None
        except ftplib.Error as reply:
            raise _fault_of(reply, doing) from None
        except UnicodeError:
            # the error's own words repeat the text, which may be a password
            raise Refused(
                f"{doing}: a name, or an answer of the server, is none in the encoding of the connection; "
                "set encoding in its extra to that of the server, and check its host"
            ) from None
        except UnknownForm as line:
            raise Refused(
                f"{doing}: the server lists in an unknown form ({line}); let it offer MLSD, or upload the model as one "
                "archive"
            ) from None
        except EOFError as error:
            raise StoreUnreachable(
                f"{doing}: it broke off ({str(error) or 'the server hung up'}); try again"
            ) from error
        except OSError as error:
            raise _network_fault(error, doing) from error
        except ValueError:
            raise Refused(
                f"{doing}: a name, or the login, has a line break, which FTP cannot send; rename it"
            ) from None

    # connections

    @contextmanager
    def _client(self) -> Iterator[ftplib.FTP]:
        """Lend a client in binary mode; it is kept unless something else than a reply of the server came between."""
        client = self._answering()
        try:
            yield client
        except (ftplib.error_temp, ftplib.error_perm, FileNotFoundError, IsADirectoryError, UnknownForm):
            raise
        except BaseException:
            client.close()
            raise
        finally:
            if client.sock is not None:
                self._idle.append(client)

    def _answering(self) -> ftplib.FTP:
        while self._idle:
            client = self._idle.pop()
            try:
                client.voidcmd("TYPE I")
            except LOST:
                # closed while it was idle: the next one, or a new one, will do
                client.close()
            else:
                return client
        return self._opened()

    def _opened(self) -> ftplib.FTP:
        try:
            client = self._connect()
        except ftplib.error_perm as reply:
            raise _TurnedAway(*reply.args) from None
        try:
            if codecs.lookup(client.encoding).name == "utf-8":
                # some servers must be told, the others do not mind
                with suppress(ftplib.error_perm, ftplib.error_temp):
                    client.sendcmd("OPTS UTF8 ON")
            client.voidcmd("TYPE I")
        except BaseException:
            client.close()
            raise
        return client

    # questions

    def _ask(self, client: ftplib.FTP, command: str, path: str) -> str | None:
        """Ask something about a path; None if the server does not know the command."""
        if command in self._unknown:
            return None
        try:
            return client.sendcmd(f"{command} {path}")
        except ftplib.error_perm as reply:
            if _code(reply) not in UNKNOWN:
                raise
            self._unknown.add(command)
            return None

    def _enter(self, client: ftplib.FTP, path: str) -> bool:
        """Go into a folder, from where it can be listed whatever its name; False if it is none, or closed."""
        try:
            client.voidcmd(f"CWD {path or '/'}")
        except (ftplib.error_perm, ftplib.error_temp) as reply:
            if _code(reply) not in UNAVAILABLE:
                raise
            return False
        return True

    def _told_apart(self, client: ftplib.FTP, path: str, question: Callable[[], Answer]) -> Answer:
        """Ask something about a path; an answer of none is told apart into absent, a folder, and closed."""
        try:
            return question()
        except (ftplib.error_perm, ftplib.error_temp) as reply:
            if _code(reply) not in UNAVAILABLE:
                raise
            if self._enter(client, path):
                raise IsADirectoryError(path) from None
            if not self._exists(client, path):
                raise FileNotFoundError(path) from None
        # it is closed, unless somebody has just put it there
        return question()

    def _exists(self, client: ftplib.FTP, path: str) -> bool:
        """Whether the server names a path, or else whether the nearest folder that can be entered names the next."""
        folder, _, name = path.rpartition("/")
        if not name:
            return True
        if not self._enter(client, folder):
            return self._exists(client, folder)
        try:
            # some servers put the folder before it
            return any(line.rpartition("/")[2] == name for line in self._lines(client, "NLST"))
        except (ftplib.error_perm, ftplib.error_temp) as reply:
            if _code(reply) not in UNAVAILABLE:
                raise
            return False

    def _told_facts(self, client: ftplib.FTP, path: str) -> FileFacts:
        return self._told_apart(client, path, lambda: self._facts(client, path))

    def _facts(self, client: ftplib.FTP, path: str) -> FileFacts:
        size = size_of(self._ask(client, "SIZE", path))
        modified = time_of(self._ask(client, "MDTM", path))
        if size is not None and modified is not None:
            return FileFacts(size, *modified)
        listed = self._listed(client, path)
        if listed.is_folder:
            raise IsADirectoryError(path)
        if modified is not None:
            return FileFacts(listed.facts.size, *modified)
        return listed.facts if size is None else replace(listed.facts, size=size)

    def _listed(self, client: ftplib.FTP, path: str) -> Listed:
        reply = self._ask(client, "MLST", path)
        if reply is not None:
            _, several, lines = reply.partition("\n")
            return from_facts(lines.partition("\n")[0].lstrip() if several else reply[4:])
        folder, _, name = path.rpartition("/")
        client.voidcmd(f"CWD {folder or '/'}")
        for listed in self._entries(client):
            if listed.name == name:
                return listed
        raise FileNotFoundError(path)

    def _entries(self, client: ftplib.FTP) -> list[Listed]:
        """List the folder that was entered, hidden names too."""
        if "MLSD" not in self._unknown:
            try:
                return without_dots(from_facts(line) for line in self._lines(client, "MLSD"))
            except ftplib.error_perm as reply:
                if _code(reply) not in UNKNOWN:
                    raise
                self._unknown.add("MLSD")
        with suppress(ftplib.error_perm, UnknownForm):
            listed = from_columns(self._lines(client, "LIST -a"))
            # a server without options takes this one for a name, and so does not list the folder itself
            if any(entry.name == "." for entry in listed):
                return without_dots(listed)
        return without_dots(from_columns(self._lines(client, "LIST")))

    def _lines(self, client: ftplib.FTP, command: str) -> list[str]:
        with closing(_Incoming(client, client.transfercmd(command))) as listing:
            told = b"".join(iter(lambda: listing.read(CHUNK), b""))
        lines = told.decode(client.encoding, "surrogateescape").split("\n")
        return [line.removesuffix("\r") for line in lines if line not in ("", "\r")]

    # the port

    def _stat(self, path: str) -> FileFacts:
        with self._client() as client:
            return self._told_facts(client, path)

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        with self._client() as client:

            def prove() -> None:
                if self._told_facts(client, path) != facts:
                    raise StoreUnreachable(f"reading {self.describe(path)}: it changed meanwhile; try again")

            def begun() -> tuple[FileFacts, socket.socket, int]:
                facts = self._facts(client, path)
                return facts, *self._retrieve(client, path, offset if facts == expected else 0)

            facts, data, begin = self._told_apart(client, path, begun)
            with closing(_Incoming(client, data, prove)) as reader:
                yield Opened(facts, reader, begin)

    def _retrieve(self, client: ftplib.FTP, path: str, offset: int) -> tuple[socket.socket, int]:
        """Begin to fetch a file; give the data connection and the position of its first byte."""
        if offset and "REST" not in self._unknown:
            try:
                return client.transfercmd(f"RETR {path}", offset), offset
            except ftplib.error_perm as reply:
                if _code(reply) not in UNKNOWN:
                    raise
                self._unknown.add("REST")
        return client.transfercmd(f"RETR {path}"), 0

    def _list(self, folder: str) -> list[Entry] | None:
        folder = folder.rstrip("/")
        with self._client() as client:
            if not self._enter(client, folder):
                with suppress(IsADirectoryError):  # made, and entered, just now
                    self._told_facts(client, folder)
                    return None
            return [
                Entry(
                    listed.name,
                    self._enter(client, f"{folder}/{listed.name}") if listed.is_folder is None else listed.is_folder,
                )
                for listed in self._entries(client)
            ]

    def _scan(self, folder: str) -> Mapping[str, FileFacts]:
        with self._client() as client:
            if not self._enter(client, folder.rstrip("/")):
                raise FileNotFoundError(folder)
            return {listed.name: listed.facts for listed in self._entries(client) if listed.is_folder is False}

    def _write(self, path: str, source: Readable) -> None:
        with self._client() as client:
            self._make_folder(client, path.rpartition("/")[0])
            sent = self._send(client, path, source)
            size = size_of(self._ask(client, "SIZE", path))
            if size not in (None, sent):
                raise EOFError(f"the server has {size} of {sent} bytes")

    def _make_folder(self, client: ftplib.FTP, folder: str) -> None:
        if self._enter(client, folder) or not folder:
            return
        self._make_folder(client, folder.rpartition("/")[0])
        try:
            client.voidcmd(f"MKD {folder}")
        except ftplib.error_perm:
            # somebody else may have made it meanwhile
            if not self._enter(client, folder):
                raise

    def _send(self, client: ftplib.FTP, path: str, source: Readable) -> int:
        sent = 0
        with client.transfercmd(f"STOR {path}") as data:
            try:
                while block := source.read(BLOCK):
                    data.sendall(block)
                    sent += len(block)
            except OSError:
                # the server says why it wants no more, if it still speaks
                with suppress(OSError, EOFError):
                    client.getresp()
                raise
            if isinstance(data, ssl.SSLSocket):
                # not every server says good-bye; whether all has come is seen by its reply and the size
                with suppress(OSError):
                    data.unwrap()
        _complete(client)
        return sent

    def _rename(self, source: str, target: str) -> None:
        with self._client() as client:
            client.sendcmd(f"RNFR {source}")
            try:
                client.voidcmd(f"RNTO {target}")
            except ftplib.error_perm as reply:
                if _code(reply) not in UNAVAILABLE:
                    raise
                if self._enter(client, target):
                    raise IsADirectoryError(target) from None
                # a server of Windows never replaces a file, so there is a moment without one
                with suppress(ftplib.error_perm):
                    client.voidcmd(f"DELE {target}")
                client.rename(source, target)

    def _remove(self, path: str) -> None:
        with self._client() as client, suppress(FileNotFoundError):
            self._told_apart(client, path, lambda: client.voidcmd(f"DELE {path}"))


class _TurnedAway(ftplib.error_perm):
    """The server refused the connection or the login."""


class _Incoming:
    """The bytes of a transfer; their end is believed only when the server has said that it sent them all.

    :param client: busy with the transfer until then, and of no more use if that is not waited for.
    :param data: the data connection.
    :param prove: called at the end; raises if the bytes are no good after all.
    """

    def __init__(self, client: ftplib.FTP, data: socket.socket, prove: Callable[[], None] = lambda: None) -> None:
        self._client = client
        self._data = data
        self._prove = prove
        self._busy = True
        self._proven = False

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes, as many as there are at the moment."""
        if self._proven or not size:
            return b""
        piece = self._data.recv(CHUNK if size < 0 else size)
        if not piece:
            self._end()
        return piece

    def _end(self) -> None:
        self._data.close()
        try:
            _complete(self._client)
        except (ftplib.error_temp, ftplib.error_perm):
            self._busy = False
            raise
        self._busy = False
        self._prove()
        self._proven = True

    def close(self) -> None:
        """Give up what is still on its way, and with it the client."""
        self._data.close()
        if self._busy:
            self._client.close()


def _complete(client: ftplib.FTP) -> None:
    """Wait for the reply that ends a transfer."""
    reply = client.getresp()
    if reply[:3] not in COMPLETE:
        raise EOFError(f"the server ended the transfer with {_words(reply)}, not with 226")


def _code(reply: ftplib.Error) -> str:
    return str(reply)[:3]


def _words(reply: ftplib.Error | str) -> str:
    """Give a reply, which may have several lines, as one."""
    return " ".join(str(reply).split())


def _fault_of(reply: ftplib.Error, doing: str) -> DeliveryError:
    said = f"{doing}: the server answered {_words(reply)}"
    if isinstance(reply, ftplib.error_temp) or (_code(reply) == "530" and FULL.search(str(reply))):
        return StoreUnreachable(f"{said}; try again later")
    if isinstance(reply, _TurnedAway) or _code(reply) in LOGIN:
        return Refused(
            f"{said}; check the connection's login and password, and whether the server wants tls in its extra"
        )
    if isinstance(reply, ftplib.error_perm):
        return Refused(f"{said}; check what the connection's login may do there, and the room that it has")
    return Refused(f"{said}, which is not FTP; check the connection's host and port")


def _network_fault(error: OSError, doing: str) -> DeliveryError:
    if not isinstance(error, ssl.SSLError):
        return StoreUnreachable(
            f"{doing}: the store cannot be reached ({error.strerror or error}); check the connection's host and port, "
            "and whether the store runs"
        )
    if isinstance(error, BROKEN_TLS):
        return StoreUnreachable(f"{doing}: TLS broke off ({error}); try again")
    return Refused(f"{doing}: TLS was refused ({error}); check the server's certificate, and verify in the extra")
