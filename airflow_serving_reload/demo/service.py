"""The life of an embedded HTTP server: listen, say where, wait for the signal to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# how long requests under way may go on after the signal
_GRACE_SECONDS = 5


def exit_cleanly_on_signals() -> None:
    """Let SIGTERM and SIGINT end the process with status 0 from now on, a slow start included."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold SIGTERM and SIGINT back while something runs that takes them over, as importing Paddle does."""
    numbers = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        exit_cleanly_on_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


async def serve(
    application: web.Application, host: str, port: int, port_file: Path | None, when_ready: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    :param port: port to listen on, 0 for one that the kernel gives.
    :param port_file: gets the port, whole from the first moment that it is there; removed at the end.
    :param when_ready: called with the address once requests are answered.
    :raises OSError: if the port is taken.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_port = runner.addresses[0][1]
        when_ready(f"http://{host}:{bound_port}")
        if port_file:
            _write_atomically(port_file, f"{bound_port}\n")
        await stopping.wait()
    finally:
        forget_port(port_file)
        await runner.cleanup()


def forget_port(port_file: Path | None) -> None:
    """Remove the port file, if there is one: nobody answers there."""
    if port_file:
        port_file.unlink(missing_ok=True)


def say(line: str) -> None:
    """Write a line to the standard output at once, even into a pipe."""
    print(line, flush=True)  # noqa: T201


def _write_atomically(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="ascii")
    unfinished.replace(path)
