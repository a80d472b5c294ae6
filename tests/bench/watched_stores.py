"""Stores with many donefiles: nginx, vsftpd and HDFS, and servers that are slow or silent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from airflow_serving_reload.demo.store import application
from tests.contract.bench import USER, Address
from tests.contract.nginx import free_ports, wait_for_port
from tests.requirements import require_program
from tests.stores import Servers, Way, over_hdfs_native, over_webhdfs

LONG_AGO = 1_600_000_000

NGINX = """
daemon off;
pid nginx.pid;
worker_processes 1;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
  log_format paths $uri;
  access_log paths.log paths buffer=64k flush=1s;
  client_body_temp_path temporary;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  default_type application/octet-stream;
  server {{ listen 127.0.0.1:{port}; root files; autoindex on; }}
}}
"""


@dataclass(frozen=True)
class WatchedStore:
    """A store with donefiles.

    :param fields: of the connection.
    :param address: where its server listens.
    :param put: makes or replaces a donefile, with a time of long ago or of now.
    :param requests: gives the path of each request that it has had, but for those about none; None if it does not tell.
    :param environment: further variables of the triggerer.
    """

    fields: Mapping[str, object]
    address: Address
    put: Callable[[str, bytes, bool], None]
    requests: Callable[[], list[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def variables(self, conn_id: str) -> dict[str, str]:
        """Give the variables by which Airflow knows the connection."""
        return {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(self.fields), **self.environment}


def donefiles(count: int, folders: int) -> list[tuple[str, str]]:
    """Give the folder and the name of so many donefiles, evenly in so many folders."""
    return [(f"/models/{number % folders}", f"donefile-{number // folders}") for number in range(count)]


def _putting(root: Path) -> Callable[[str, bytes, bool], None]:
    def put(path: str, content: bytes, old: bool) -> None:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = root.with_name(f"{root.name}.beside")
        beside.write_bytes(content)
        if old:
            os.utime(beside, (LONG_AGO, LONG_AGO))
        beside.chmod(0o644)
        beside.replace(file)

    return put


def _logged(log: Path, path: str) -> Callable[[], list[str]]:
    """Give what finds the paths in a server's log, of which an expression tells how each stands there."""

    def requests() -> list[str]:
        return re.findall(path, log.read_text(errors="replace"))

    return requests


@contextmanager
def http(servers: Servers, folder: Path) -> Iterator[WatchedStore]:
    """Start an nginx."""
    (folder / "files").mkdir()
    folder.chmod(0o755)
    [port] = free_ports(1)
    (folder / "nginx.conf").write_text(NGINX.format(port=port))
    command = [str(require_program("nginx", "nginx-light")), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    server = servers.processes.start("nginx", command, log=folder / "output.log")
    address = Address("127.0.0.1", port)
    wait_for_port(servers.processes, server, address)

    fields = {"conn_type": "http", "host": address.host, "port": port}
    yield WatchedStore(fields, address, _putting(folder / "files"), _logged(folder / "paths.log", r"(?m)^(.*)$"))


@contextmanager
def ftp(servers: Servers, _folder: Path) -> Iterator[WatchedStore]:
    """Start a vsftpd."""
    from tests.contract.bench import PASSWORD
    from tests.contract.ftp_servers import Vsftpd

    with Vsftpd.running(servers.processes) as server:
        files = server.folder / "files"
        files.mkdir(exist_ok=True)
        fields = {"conn_type": "ftp", "host": server.address.host, "port": server.address.port}
        fields |= {"login": USER, "password": PASSWORD}
        yield WatchedStore(fields, server.address, _putting(files), _logged(server.folder / "log", r'"[A-Z]+ (/.*)"'))


@contextmanager
def _in_hdfs(servers: Servers, over: Callable[[Servers, Path], AbstractContextManager[Way]]) -> Iterator[WatchedStore]:
    with over(servers, Path()) as way:
        assert way.address is not None

        def put(path: str, content: bytes, old: bool) -> None:
            servers.hdfs.administrator.write(path, data=content, overwrite=True)
            if old:
                servers.hdfs.administrator.set_times(path, modification_time=LONG_AGO * 1000)

        audited = rf" audit: .*ugi={USER} .*src=(\S+)"
        requests = _logged(servers.hdfs.folder / "namenode.log", audited)
        yield WatchedStore(way.fields, way.address, put, requests, way.environment)


def webhdfs(servers: Servers, _folder: Path) -> AbstractContextManager[WatchedStore]:
    """Start an HDFS, and reach it by WebHDFS."""
    return _in_hdfs(servers, over_webhdfs)


def hdfs_native(servers: Servers, _folder: Path) -> AbstractContextManager[WatchedStore]:
    """Start an HDFS, and reach it by its own protocol."""
    return _in_hdfs(servers, over_hdfs_native)


STORES: Mapping[str, Callable[[Servers, Path], AbstractContextManager[WatchedStore]]] = {
    "http": http,
    "ftp": ftp,
    "webhdfs": webhdfs,
    "hdfs_native": hdfs_native,
}
"""Transports that are measured."""


@contextmanager
def slow(folder: Path, seconds: float | None) -> Iterator[WatchedStore]:
    """Start a server that answers after so many seconds; never, if None."""
    ended = asyncio.Event()

    @web.middleware
    async def wait(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
        return await handler(request)

    (folder / "files").mkdir(parents=True)
    app = application(folder / "files")
    app.middlewares.append(wait)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> Address:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return Address(*runner.addresses[0][:2])

    try:
        address = asyncio.run_coroutine_threadsafe(start(), loop).result()
        fields = {"conn_type": "http", "host": address.host, "port": address.port}
        yield WatchedStore(fields, address, _putting(folder / "files"))
    finally:
        # else the server would wait for who waits
        loop.call_soon_threadsafe(ended.set)
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
