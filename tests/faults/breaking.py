"""A proxy that breaks the answers of a real server: which answer, at which byte, and how, is said beforehand."""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.contract.bench import Address
from tests.contract.tcp import TcpServer

PIECE = 1 << 16
"""Bytes that are on their way in the proxy at most."""

TRICKLED_BYTES = 12
TRICKLE_PAUSE = 0.1

BEGUN_SECONDS = 5
"""Far beyond what a reply takes: it only ends a wait for one that never comes."""

Kind = Literal["cut", "reset", "stall", "slow", "shorten", "flip", "say"]


@dataclass(frozen=True)
class Fault:
    """What is done to an answer.

    :param kind: `cut` ends the client's connections in good order, `reset` does not; `stall` sends nothing more;
        `slow` sends the next bytes one by one; `shorten` ends the answer, and nothing shows that it is not the end;
        `flip` changes one bit; `say` gives another answer, and the server is not asked.
    :param request: pattern of the request, the first line of which is looked at.
    :param at: of the body, the number of the byte; of what comes before it, the words behind which.
    :param after: requests count only when one that has this pattern has been seen.
    :param nth: the first of the requests to which it happens.
    :param times: to so many of them it happens.
    :param seconds: for so long it happens, from the first time on.
    :param reply: what is said.
    :param hang_up: whether the connections are ended then.
    :param before: called before it happens.
    """

    kind: Kind
    request: bytes
    at: int | bytes = b""
    after: bytes = b""
    nth: int = 1
    times: float = 1
    seconds: float = float("inf")
    reply: bytes = b""
    hang_up: bool = True
    before: Callable[[], None] = lambda: None


@dataclass
class _Exchange:
    """A request, and how much of its answer has come."""

    request: bytes
    faults: list[Fault]
    in_body: bool = False
    body_bytes: int = 0
    tail: bytes = b""
    """The end of the head so far, where the mark of its end may have begun."""
    begun: threading.Event = field(default_factory=threading.Event)
    """Set when something has been said in answer; what FTP sends on another connection comes after that."""

    def due(self, *kinds: Kind, in_body: bool) -> list[Fault]:
        """Give the faults that happen in this part of the answer."""
        return [fault for fault in self.faults if fault.kind in kinds and isinstance(fault.at, int) == in_body]


@dataclass
class _Session:
    """The connections that belong together, and what was asked last."""

    ends: list[socket.socket] = field(default_factory=list)
    exchange: _Exchange = field(default_factory=lambda: _Exchange(b"", []))


class _Broken(Exception):
    """The connection ends here."""


@dataclass
class BreakingProxy(TcpServer):
    """Takes connections for a server of HTTP, whose clients send each request in one go, and no bodies.

    :param upstream: the server.
    :param faults: what happens; each counts its requests by itself.
    :param counted: pattern of the requests the bodies of whose answers are counted.
    """

    upstream: Address
    faults: Sequence[Fault] = ()
    counted: bytes = b""
    happened: list[Fault] = field(default_factory=list, init=False)
    """The faults that happened, in order."""
    sent: int = field(default=0, init=False)
    """Bytes that the server has sent of the bodies that are counted."""
    _seen: list[bytes] = field(default_factory=list, init=False)
    _matched: dict[int, int] = field(default_factory=dict, init=False)
    _began: dict[int, float] = field(default_factory=dict, init=False)

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect(self.upstream) as server:
            self._relay(_Session([client, server]), client, server)

    def _relay(self, session: _Session, client: socket.socket, server: socket.socket) -> None:
        with suppress(_Broken):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(PIECE)
                    if not data:
                        return
                    if source is client:
                        self._pass_request(session, client, server, data)
                    else:
                        self._pass_answer(session, client, data)

    # requests

    def _pass_request(self, session: _Session, client: socket.socket, server: socket.socket, data: bytes) -> None:
        request = data.partition(b"\r\n")[0]
        session.exchange = _Exchange(request, [fault for fault in self.faults if self._happens(fault, request)])
        self._seen.append(request)
        for fault in session.exchange.faults:
            if fault.kind == "say":
                self._happen(fault)
                client.sendall(fault.reply)
                if fault.hang_up:
                    self._hang_up(session, client, reset=False)
                return
        server.sendall(data)

    def _happens(self, fault: Fault, request: bytes) -> bool:
        if not re.search(fault.request, request):
            return False
        if fault.after and not any(re.search(fault.after, seen) for seen in self._seen):
            return False
        number = self._matched[id(fault)] = self._matched.get(id(fault), 0) + 1
        if not fault.nth <= number < fault.nth + fault.times:
            return False
        return time.monotonic() - self._began.setdefault(id(fault), time.monotonic()) < fault.seconds

    def _happen(self, fault: Fault) -> None:
        self.happened.append(fault)
        fault.before()

    # answers

    def _pass_answer(self, session: _Session, client: socket.socket, data: bytes) -> None:
        exchange = session.exchange
        head, body = self._split(exchange, data)
        if head:
            self._pass_head(session, client, head)
        if body:
            self._pass_body(session, client, body)

    def _split(self, exchange: _Exchange, data: bytes) -> tuple[bytes, bytes]:
        """Tell the head of an answer from its body."""
        if exchange.in_body:
            return b"", data
        looked_at = exchange.tail + data
        end = looked_at.find(b"\r\n\r\n")
        exchange.tail = looked_at[-3:]
        if end < 0:
            return data, b""
        exchange.in_body = True
        length = end + 4 - (len(looked_at) - len(data))
        return data[:length], data[length:]

    def _pass_head(self, session: _Session, client: socket.socket, head: bytes) -> None:
        exchange = session.exchange
        for fault in exchange.due("shorten", in_body=True):
            assert isinstance(fault.at, int)
            head = re.sub(rb"(?i)(?<=content-length: )\d+", b"%d" % fault.at, head)
        for fault in exchange.due("cut", "reset", "stall", "slow", "flip", in_body=False):
            assert isinstance(fault.at, bytes)
            if words := re.search(b"(?i)" + fault.at, head):
                exchange.faults.remove(fault)
                head = self._break(session, client, fault, head, words.end())
        client.sendall(head)
        exchange.begun.set()

    def _pass_body(self, session: _Session, client: socket.socket, body: bytes) -> None:
        exchange = session.exchange
        first = exchange.body_bytes
        exchange.body_bytes += len(body)
        if re.search(self.counted, exchange.request):
            self.sent += len(body)
        for fault in exchange.due("cut", "reset", "stall", "slow", "shorten", "flip", in_body=True):
            assert isinstance(fault.at, int)
            if first <= fault.at < exchange.body_bytes:
                exchange.begun.wait(BEGUN_SECONDS)
                body = self._break(session, client, fault, body, fault.at - first)
        client.sendall(body)

    def _break(self, session: _Session, client: socket.socket, fault: Fault, data: bytes, at: int) -> bytes:
        """Let a fault happen; give what there is to send of the data after it."""
        self._happen(fault)
        if fault.kind == "flip":
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        client.sendall(data[:at])
        if fault.kind == "slow":
            for byte in data[at : at + TRICKLED_BYTES]:
                time.sleep(TRICKLE_PAUSE)
                client.sendall(bytes([byte]))
            return data[at + TRICKLED_BYTES :]
        if fault.kind == "stall":
            while client.recv(PIECE):
                pass
        elif fault.kind == "shorten":
            self._shorten(session, client)
        else:
            self._hang_up(session, client, reset=fault.kind == "reset")
        raise _Broken

    def _shorten(self, session: _Session, client: socket.socket) -> None:
        """End an answer of which nothing more was announced."""

    def _hang_up(self, session: _Session, here: socket.socket, *, reset: bool) -> None:
        for end in session.ends:
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if end is not here:
                    end.shutdown(socket.SHUT_RDWR)
        raise _Broken


@dataclass
class FtpBreakingProxy(BreakingProxy):
    """The same for FTP without TLS: what comes on the control connection is the head, the data is the body."""

    def _split(self, exchange: _Exchange, data: bytes) -> tuple[bytes, bytes]:
        return data, b""

    def _pass_head(self, session: _Session, client: socket.socket, head: bytes) -> None:
        super()._pass_head(session, client, self._with_way(session, head))

    def _with_way(self, session: _Session, reply: bytes) -> bytes:
        """Put a port of this proxy in the place of the server's, where it tells one for data."""
        told = re.match(rb"227 .*?(\d+),(\d+)\)", reply)
        if told is None:
            return reply
        listener = self._listen()
        self._begin(self._take_data, session, listener, int(told[1]) << 8 | int(told[2]))
        port = listener.getsockname()[1]
        return reply[: told.start(1)] + b"%d,%d" % (port >> 8, port & 0xFF) + reply[told.end(2) :]

    def _take_data(self, session: _Session, listener: socket.socket, port: int) -> None:
        with (
            suppress(_Broken),
            listener,
            self._own(listener.accept()[0]) as client,
            self._connect(self.upstream._replace(port=port)) as server,
        ):
            session.ends += [client, server]
            while select.select([client, server], [], [])[0] != [client] and (data := server.recv(PIECE)):
                self._pass_body(session, client, data)

    def _shorten(self, session: _Session, client: socket.socket) -> None:
        """End a transfer; the server believes that it has sent everything, and says so."""
        client.shutdown(socket.SHUT_RDWR)
        server = session.ends[session.ends.index(client) + 1]
        while server.recv(PIECE):
            pass
