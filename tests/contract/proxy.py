"""TCP between a client and a server that breaks when it is told to."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .bench import Address
from .tcp import TcpServer

PIECE = 1 << 16


@dataclass
class CuttingProxy(TcpServer):
    """Forwards connections to a server, and cuts the first ones off.

    :param upstream: the server.
    :param cuts: for each of the first connections, after how many bytes from the server it is cut; later ones last.
    :param cuts_of_requests: the same for the bytes from the client.
    :param before_cut: called before each cut.
    :param reset: cut by a reset, in place of an orderly end.
    :param gone_after: after so many connections every further one is closed at once.
    :param spared: so many of the first connections carry no files, and are neither cut nor counted.
    """

    upstream: Address
    cuts: Sequence[int] = ()
    cuts_of_requests: Sequence[int] = ()
    before_cut: Callable[[], None] = lambda: None
    reset: bool = False
    gone_after: int | None = None
    spared: int = 0
    answered: list[int] = field(default_factory=list, init=False)
    """Bytes that the server sent, by connection."""
    _taken: int = field(default=0, init=False)

    def _take(self, client: socket.socket) -> None:
        if self.gone_after is not None and self._taken - self.spared >= self.gone_after:
            client.close()
            return
        number = self._taken - self.spared
        self._taken += 1
        if number >= 0:
            self.answered.append(0)
        self._begin(self._forward, number, client, self._connect(self.upstream))

    def _forward(self, number: int, client: socket.socket, server: socket.socket) -> None:
        target = {client: server, server: client}
        left = {
            client: _at(self.cuts_of_requests, number),
            server: _at(self.cuts, number),
        }
        # one side that hangs up ends both: what HTTP and its like have to say has been said then
        with client, server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    limit = left[source]
                    data = source.recv(PIECE if limit is None else min(PIECE, limit))
                    if not data:
                        return
                    target[source].sendall(data)
                    if source is server and number >= 0:
                        self.answered[number] += len(data)
                    if limit is not None:
                        left[source] = limit - len(data)
                        if not left[source]:
                            self.before_cut()
                            if self.reset:
                                for end in target:
                                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                            return


def _at(cuts: Sequence[int], number: int) -> int | None:
    return cuts[number] if 0 <= number < len(cuts) else None


@contextmanager
def nobody() -> Iterator[Address]:
    """Give an address that nobody listens at, and that nobody else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield Address("127.0.0.1", taken.getsockname()[1])


@contextmanager
def silence() -> Iterator[Address]:
    """Give an address where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address("127.0.0.1", listener.getsockname()[1])
