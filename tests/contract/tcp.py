"""TCP servers of the tests: they take connections until the end of a `with` block, and nothing of them outlives it."""

from __future__ import annotations

import socket
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from .bench import Address

END_SECONDS = 30
"""Far beyond what a thread takes that is told to end: it only turns a hang into a failure."""


@dataclass(kw_only=True)
class TcpServer:
    """Takes connections on a port of this host, each by a thread of its own.

    :ivar address: where it listens, once it runs.
    """

    address: Address = field(init=False)
    _ends: list[socket.socket] = field(default_factory=list, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _is_over: bool = field(default=False, init=False)
    _taking: threading.RLock = field(default_factory=threading.RLock, init=False)
    """Held while something is taken, so that each is either there to be dropped, or meets what was set before."""

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Take connections until the end of the `with` block."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = Address(*listener.getsockname())
            acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
            acceptor.start()
            try:
                yield self
            finally:
                with self._taking:
                    self._is_over = True
                # closing alone does not wake up who waits in accept()
                listener.shutdown(socket.SHUT_RDWR)
                _join(acceptor)
                self.drop()

    def drop(self) -> None:
        """End all connections that there are, and wait until they have ended."""
        with self._taking:
            ends, threads = list(self._ends), list(self._threads)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            _join(thread)

    def is_connected(self) -> bool:
        """Whether there is a connection."""
        with self._taking:
            return any(thread.is_alive() for thread in self._threads)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._taking:
                try:
                    self._take(self._own(client))
                except OSError:
                    client.close()

    def _take(self, client: socket.socket) -> None:
        """Do with a connection what has to be done in the order in which they come."""
        self._begin(self._serve, client)

    @abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Answer one connection, and close it; what fails in it ends it."""

    def _own(self, end: socket.socket) -> socket.socket:
        """Give a socket back that is ended with the server.

        :raises OSError: it has ended; the socket is closed.
        """
        with self._taking:
            if self._is_over:
                end.close()
                raise ConnectionAbortedError("the server has ended")
            self._ends.append(end)
        return end

    def _connect(self, upstream: Address) -> socket.socket:
        """Open a connection that is ended with the server."""
        return self._own(socket.create_connection(upstream))

    def _listen(self) -> socket.socket:
        """Listen on a further port until the end of the server."""
        return self._own(socket.create_server(("127.0.0.1", 0)))

    def _begin(self, run: Callable[..., None], *arguments: object) -> None:
        """Run something in a thread that is waited for at the end."""

        def until_the_end() -> None:
            with suppress(OSError):
                run(*arguments)

        thread = threading.Thread(target=until_the_end, daemon=True)
        with self._taking:
            self._threads.append(thread)
            thread.start()


def _join(thread: threading.Thread) -> None:
    thread.join(END_SECONDS)
    assert not thread.is_alive(), f"a thread of the server is still at work after {END_SECONDS} s"
