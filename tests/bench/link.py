"""A long line between two network namespaces: a program in between delays each packet and loses some.

Run as a program, by `between`, it is that line. It needs no module of the kernel but TUN, where `netem` may be
missing. The server's side answers at 127.0.0.1, as the servers of the tests listen, and the client's side finds it
at that address: what either side sends there goes over the line. Both send by `cubic`, whatever the host does.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.requirements import require, require_program

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000

CLONE_NEWNET = 0x40000000

MTU = 1500
QUEUED = 20_000
"""Packets that may wait on each side; beyond them the line would lose more than it was told to."""

AT_ONCE = 64
"""Packets that are taken from one side before the other has its turn."""

SERVER, CLIENT = "127.0.0.1", "10.77.0.2"

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Line:
    """Two namespaces and the line between them.

    :param client: name of the client's namespace.
    :param server: name of the server's.
    """

    client: str
    server: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command at the client's end."""
        return ("ip", "netns", "exec", self.client)

    def at_server(self) -> AbstractContextManager[None]:
        """Be at the server's end until the end of the `with` block, with every process and thread that is started."""
        return _at(self.server)

    def at_client(self) -> AbstractContextManager[None]:
        """Be at the client's end."""
        return _at(self.client)


@contextmanager
def _at(namespace: str) -> Iterator[None]:
    with Path("/proc/thread-self/ns/net").open("rb") as here, Path(f"/run/netns/{namespace}").open("rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "entering a network namespace")


@contextmanager
def between(*, milliseconds: float, loss: float, seed: int = 1) -> Iterator[Line]:
    """Lay a line until the end of the `with` block; without the rights of root the test is skipped.

    :param milliseconds: of a round trip.
    :param loss: share of the packets that is lost, in each direction.
    :param seed: decides which ones.
    """
    require_program("ip", "iproute2")
    require(os.geteuid() == 0 and TUN.exists(), "needs root and /dev/net/tun, to lay a line between two namespaces")
    line = Line(f"near-{os.getpid()}", f"far-{os.getpid()}")
    command = [sys.executable, "-m", "tests.bench.link", line.client, line.server, str(milliseconds / 2000), str(loss)]
    try:
        for namespace in (line.client, line.server):
            _run("netns", "add", namespace)
        with subprocess.Popen([*command, str(seed)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                assert process.stdout.readline() == "ready\n", "the line did not come up"
                yield line
            finally:
                process.terminate()
    finally:
        for namespace in (line.client, line.server):
            _run("netns", "delete", namespace)


def _run(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


# the line itself


def _attach(namespace: str, address: str, other: str) -> int:
    """Make the end of a line in a namespace, and give what its packets come out of.

    :param address: of this end.
    :param other: address of the other one.
    """
    end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", namespace.encode(), IFF_TUN | IFF_NO_PI))
    _run("link", "set", namespace, "netns", namespace)
    for arguments in (
        *([("link", "set", "lo", "up")] if address == SERVER else []),
        ("link", "set", namespace, "up", "mtu", str(MTU), "txqueuelen", str(QUEUED)),
        *([] if address == SERVER else [("address", "add", address, "dev", namespace)]),
        ("route", "add", other, "dev", namespace, "src", address, "congctl", "cubic"),
    ):
        _run("-netns", namespace, *arguments)
    # the server's address is one that else never leaves a host
    for setting in ("all/route_localnet", "default/route_localnet", f"{namespace}/route_localnet"):
        command = f"echo 1 > /proc/sys/net/ipv4/conf/{setting}"
        _run("netns", "exec", namespace, "sh", "-c", command)
    for setting in ("all/rp_filter", f"{namespace}/rp_filter"):
        _run("netns", "exec", namespace, "sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{setting}")
    return end


class _Direction:
    """Packets on their way from one end to the other.

    :param delay: seconds that each takes.
    :param loss: share that is lost.
    """

    def __init__(self, source: int, target: int, delay: float, loss: float, seed: int) -> None:
        self._source, self._target = source, target
        self._delay, self._loss = delay, loss
        self._chance = random.Random(seed).random
        self._waiting: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        """Take what comes in."""
        due = time.monotonic() + self._delay
        read, source, chance, loss, put = os.read, self._source, self._chance, self._loss, self._waiting.append
        with suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                packet = read(source, MTU)
                if chance() >= loss:
                    put((due, packet))

    def give(self) -> float:
        """Give out what is due, and say in how many seconds the next one is; infinity if nothing is on its way."""
        waiting, write, target = self._waiting, os.write, self._target
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            write(target, waiting.popleft()[1])
        return waiting[0][0] - now if waiting else float("inf")


def _carry(client: str, server: str, delay: str, loss: str, seed: str) -> None:
    near, far = _attach(client, CLIENT, SERVER), _attach(server, SERVER, CLIENT)
    directions = {
        near: _Direction(near, far, float(delay), float(loss), int(seed)),
        far: _Direction(far, near, float(delay), float(loss), int(seed) + 1),
    }
    with suppress(PermissionError):
        # a line does not become longer because the host has much to do
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("ready", flush=True)  # noqa: T201 - who started it waits for this
    while True:
        pause = min(direction.give() for direction in directions.values())
        for end in select.select([near, far], [], [], None if pause == float("inf") else max(pause, 0))[0]:
            directions[end].take()


if __name__ == "__main__":
    _carry(*sys.argv[1:])
