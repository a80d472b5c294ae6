"""One address for a NameNode and a DataNode, so that a proxy before it sees everything that a client does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from .bench import Address
from .hadoop import Hdfs
from .tcp import TcpServer

PIECE = 1 << 16

DATA_TRANSFER = b"\x00\x1c"
"""How a connection for data begins in Hadoop's own protocol: with its version, 28."""

Translate = Callable[[bytes], bytes]


@dataclass
class Front(TcpServer):
    """Takes connections for both nodes, and tells which is for whom by how they begin.

    What the NameNode says of the DataNode's address is changed to the address by which the client came.

    :param hdfs: the nodes.
    :param forget: what is taken out of requests, as by a gateway that does not know it.
    """

    hdfs: Hdfs
    forget: bytes | None = None
    seen_as: Address = field(init=False)
    """By which address clients come, if there is a proxy before it."""

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Take connections until the end of the `with` block."""
        with super().running():
            self.seen_as = self.address
            yield self

    def _serve(self, client: socket.socket) -> None:
        with client:
            first = client.recv(PIECE, socket.MSG_PEEK)
            upstream, translate = self._choose(first)
            with self._connect(upstream) as server:
                back = threading.Thread(target=_pump, args=(server, client, translate), daemon=True)
                back.start()
                _pump(client, server, self._forgetting)
                back.join()

    def _choose(self, first: bytes) -> tuple[Address, Translate]:
        """Say whom a connection that begins like this is for, and how to change what comes back."""
        namenode, datanode = self.hdfs.namenode, self.hdfs.datanode
        if first.startswith(b"hrpc"):
            return namenode.rpc, self._translating(_port_field(datanode.transfer), _port_field(self.seen_as))
        if first.startswith(DATA_TRANSFER):
            return datanode.transfer, bytes
        if b"namenoderpcaddress=" in first.partition(b"\r\n")[0]:
            return datanode.http, bytes
        # by another name, so that clients do not take the NameNode's connection for the DataNode
        return namenode.http, self._translating(_authority(datanode.http), b"localhost:%d" % self.seen_as.port)

    def _translating(self, old: bytes, new: bytes) -> Translate:
        assert len(old) == len(new), "the lengths around it would be wrong"
        return lambda data: data.replace(old, new)

    def _forgetting(self, data: bytes) -> bytes:
        return data.replace(self.forget, b"_" * len(self.forget)) if self.forget else data


def _pump(source: socket.socket, target: socket.socket, translate: Translate) -> None:
    try:
        while data := source.recv(PIECE):
            target.sendall(translate(data))
        # one direction ends: Hadoop's client has nothing more to send, and waits for what it is told
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _authority(address: Address) -> bytes:
    return "{}:{}".format(*address).encode()


def _port_field(address: Address) -> bytes:
    """Give the field `xferPort` of Hadoop's message about a DataNode, with the tag of the field behind it."""
    port = address.port
    # ports that the kernel gives take three bytes of seven bits
    return bytes([0x20, port & 0x7F | 0x80, port >> 7 & 0x7F | 0x80, port >> 14, 0x28])
