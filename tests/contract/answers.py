"""An HTTP server that says, byte for byte, what no well-behaved server can be made to say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from .bench import Address

LAST_MODIFIED = "Last-Modified: Sun, 13 Sep 2020 12:26:40 GMT"


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """Compose an answer, in which nothing is added or checked."""
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "Connection: close", "", "")).encode("latin-1") + body


@dataclass
class Answers:
    """Answers the first connection with the first answer, and so on; the last answer goes on for ever.

    :param answers: what to send; each connection is closed behind it.
    :param stalling: keep connections open behind the answer, until the client has had enough.
    """

    answers: Sequence[bytes]
    stalling: bool = False
    address: Address = field(init=False)
    asked: list[str] = field(default_factory=list, init=False)
    """The heads of all requests, in order."""

    @contextmanager
    def running(self) -> Iterator[Answers]:
        """Take connections until the end of the `with` block."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = Address("127.0.0.1", listener.getsockname()[1])
            server = threading.Thread(target=self._serve, args=(listener,))
            server.start()
            try:
                yield self
            finally:
                # closing alone does not wake up who waits in accept()
                listener.shutdown(socket.SHUT_RDWR)
                server.join()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), client, client.makefile("rb") as requests:
                head = b"".join(iter(requests.readline, b"\r\n"))
                self.asked.append(head.decode("latin-1"))
                client.sendall(self.answers[min(len(self.asked), len(self.answers)) - 1])
                if self.stalling:
                    requests.read()
