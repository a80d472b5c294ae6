"""An HTTP server that says, byte for byte, what no well-behaved server can be made to say."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from .tcp import TcpServer

LAST_MODIFIED = "Last-Modified: Sun, 13 Sep 2020 12:26:40 GMT"


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """Compose an answer, in which nothing is added or checked."""
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "Connection: close", "", "")).encode("latin-1") + body


@dataclass
class Answers(TcpServer):
    """Answers the first request with the first answer, and so on; the last answer goes on for ever.

    :param answers: what to send; each connection is closed behind it.
    :param stalling: keep connections open behind the answer, until the client has had enough.
    """

    answers: Sequence[bytes]
    stalling: bool = False
    asked: list[str] = field(default_factory=list, init=False)
    """The heads of all requests, in order."""

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as requests:
            head = b""
            while (line := requests.readline()) != b"\r\n":
                if not line:
                    return
                head += line
            with self._taking:
                self.asked.append(head.decode("latin-1"))
                reply = self.answers[min(len(self.asked), len(self.answers)) - 1]
            client.sendall(reply)
            if self.stalling:
                requests.read()
