"""A proxy that cuts whole FTP sessions: their control connection, and their data connections with it."""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from .bench import Address
from .proxy import PIECE, CuttingProxy


@dataclass
class _Session:
    """A control connection and its data connections, which share what is left until the cut.

    :param left: bytes until the cut, of answers (True) and of requests (False); None for ever.
    """

    number: int
    left: dict[bool, int | None]
    ends: list[socket.socket] = field(default_factory=list)
    """Those of the control connection come first, the client's before the server's."""
    passing: threading.RLock = field(default_factory=threading.RLock)
    """Held while a piece is on its way."""


@dataclass
class FtpCuttingProxy(CuttingProxy):
    """Counts all connections of a session as one, and cuts them as one.

    What the server says of its ports may be encrypted, so the client has to ask for the way to them.
    """

    _sessions: dict[int, _Session] = field(default_factory=dict, init=False)
    """By the client's own port of the control connection."""

    def way_to(self, port: int, control_port: int) -> Address:
        """Give the address at which one data connection is taken for a port of the server.

        :param control_port: the client's own port of the control connection.
        """
        listener = self._listen()
        self._begin(self._take_data, self._sessions[control_port], listener, port)
        return Address("127.0.0.1", listener.getsockname()[1])

    def _take_data(self, session: _Session, listener: socket.socket, port: int) -> None:
        with listener, self._own(listener.accept()[0]) as client:
            self._forward_for(session, client, self._connect(self.upstream._replace(port=port)))

    def _forward(self, number: int, client: socket.socket, server: socket.socket) -> None:
        left = {True: self.cuts[number : number + 1], False: self.cuts_of_requests[number : number + 1]}
        session = _Session(number, {way: next(iter(cut), None) for way, cut in left.items()})
        self._sessions[client.getpeername()[1]] = session
        self._forward_for(session, client, server)

    def _forward_for(self, session: _Session, client: socket.socket, server: socket.socket) -> None:
        session.ends += [client, server]
        with client, server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    with session.passing:
                        target = client if source is server else server
                        if not self._pass_on(session, source, target, source is server):
                            return

    def _pass_on(self, session: _Session, source: socket.socket, target: socket.socket, is_answer: bool) -> bool:
        """Forward one piece; False if it was the last one."""
        left = session.left[is_answer]
        data = source.recv(PIECE if left is None else min(PIECE, left))
        target.sendall(data)
        if is_answer:
            self.answered[session.number] += len(data)
        if left is None or not data:
            return bool(data)
        session.left[is_answer] = left - len(data)
        if session.left[is_answer]:
            return True
        self.before_cut()
        self._cut(session, {source, target})
        return False

    def _cut(self, session: _Session, here: set[socket.socket]) -> None:
        client, server = session.ends[:2]
        # what the server said before it began to send has to arrive before the break
        while server not in here and select.select([server], [], [], 0)[0] and (said := server.recv(PIECE)):
            client.sendall(said)
        for end in session.ends:
            with suppress(OSError):
                if self.reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if end not in here:
                    end.shutdown(socket.SHUT_RDWR)
