"""TCP between a client and a server that breaks when it is told to."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from .bench import Address

PIECE = 1 << 16


@dataclass
class CuttingProxy:
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
    address: Address = field(init=False)
    answered: list[int] = field(default_factory=list, init=False)
    """Bytes that the server sent, by connection."""
    _taken: int = field(default=0, init=False)
    _ends: list[socket.socket] = field(default_factory=list, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _taking: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Held while a connection is taken, so that each is either there to be dropped, or meets what was set before."""

    @contextmanager
    def running(self) -> Iterator[CuttingProxy]:
        """Take connections until the end of the `with` block."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = Address("127.0.0.1", listener.getsockname()[1])
            acceptor = threading.Thread(target=self._accept, args=(listener,))
            acceptor.start()
            try:
                yield self
            finally:
                # closing alone does not wake up who waits in accept()
                listener.shutdown(socket.SHUT_RDWR)
                acceptor.join()
                self.drop()

    def drop(self) -> None:
        """End all connections that there are, and wait until they have ended."""
        with self._taking:
            ends, threads = list(self._ends), list(self._threads)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._taking:
                self._take(client)

    def _take(self, client: socket.socket) -> None:
        if self.gone_after is not None and self._taken - self.spared >= self.gone_after:
            client.close()
            return
        server = socket.create_connection(self.upstream)
        self._ends += [client, server]
        number = self._taken - self.spared
        self._taken += 1
        if number >= 0:
            self.answered.append(0)
        thread = threading.Thread(target=self._forward, args=(number, client, server))
        self._threads.append(thread)
        thread.start()

    def _forward(self, number: int, client: socket.socket, server: socket.socket) -> None:
        target = {client: server, server: client}
        left = {
            client: _at(self.cuts_of_requests, number),
            server: _at(self.cuts, number),
        }
        # one side that hangs up ends both: what HTTP and its like have to say has been said then
        with suppress(OSError), client, server:
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
