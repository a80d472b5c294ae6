"""The embedded store: a folder over HTTP, with what a store of models needs from nginx's WebDAV.

Files come with ranges, validators and folder listings; uploads appear whole or not at all; ``MOVE`` renames. No path
leaves the folder, neither by dots nor by a symlink.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import math
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes, urlsplit
from uuid import uuid4

from aiohttp import BasicAuth, ClientPayloadError, hdrs, web

from airflow_serving_reload.demo import service

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.typedefs import Middleware

# Uploads under way and folders about to be replaced; listings leave them out.
_TEMPORARY_PREFIX = ".store-temporary-"
_CHUNK_BYTES = 1 << 18

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The one user who may come in."""

    user: str
    password: str


def main(argv: list[str] | None = None) -> int:
    """Run the store until SIGTERM or SIGINT.

    :param argv: the command line, without the program; None reads that of the process.
    :return: exit status: 0, or 1 if the store could not start.
    """
    service.exit_cleanly_on_signals()
    parser = argparse.ArgumentParser(prog="store", description="Serve a folder over HTTP, uploads included.")
    parser.add_argument("--root", required=True, type=Path, metavar="DIR", help="the folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free port (default: %(default)s)")
    parser.add_argument("--port-file", type=Path, metavar="FILE", help="gets the port once the store is ready")
    parser.add_argument("--user", help="ask for basic authentication by this user")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="holds the password of the user")
    given = parser.parse_args(argv)
    if (given.user is None) != (given.password_file is None):
        parser.error("--user and --password-file go together: found one without the other")
    service.forget_port(given.port_file)
    try:
        credentials = (
            Credentials(given.user, given.password_file.read_text(encoding="utf-8").rstrip("\n"))
            if given.user
            else None
        )
        store = application(given.root, credentials)
        asyncio.run(
            service.serve(
                store,
                given.host,
                given.port,
                given.port_file,
                lambda address: service.say(f"store: {given.root} at {address}/"),
            )
        )
    except OSError as error:
        print(f"store: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def application(root: Path, credentials: Credentials | None = None) -> web.Application:
    """Return the store of a folder.

    :param root: the folder, which has to be there.
    :param credentials: who may come in, None for everybody.
    :raises OSError: if ``root`` is no folder.
    """
    if not root.is_dir():
        raise NotADirectoryError(f"cannot serve {root}: it is no folder")
    folder = Folder(root.resolve())
    store = web.Application(middlewares=[_only(credentials)] if credentials else [])
    store.router.add_route("*", "/{path:.*}", folder.handle)
    return store


class Folder:
    """Answers the requests for what is below one folder.

    :param root: the folder, without symlinks in its path.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._handlers: dict[str, _Handler] = {
            hdrs.METH_GET: self._get,
            hdrs.METH_HEAD: self._get,
            hdrs.METH_PUT: self._put,
            hdrs.METH_DELETE: self._delete,
            "MOVE": self._move,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        handler = self._handlers.get(request.method)
        if handler is None:
            raise web.HTTPMethodNotAllowed(request.method, sorted(self._handlers))
        return await handler(request)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = self._inside(request.raw_path)
        if not path.is_dir():
            if not path.is_file() or _wants_folder(request.raw_path):
                raise web.HTTPNotFound(text=f"no file {request.path}\n")
            return _WholeOrRange(path)
        if not _wants_folder(request.raw_path):
            location, _, query = request.raw_path.partition("?")
            raise web.HTTPMovedPermanently(f"{location}/?{query}" if query else f"{location}/")
        return web.Response(text=_listing(path, is_root=path == self._root), content_type="text/html")

    async def _put(self, request: web.Request) -> web.StreamResponse:
        path = self._inside(request.raw_path)
        if hdrs.CONTENT_RANGE in request.headers:
            raise web.HTTPBadRequest(text="cannot put a part of a file: Content-Range found, send the whole file\n")
        if path.is_dir() or _wants_folder(request.raw_path):
            raise web.HTTPConflict(text=f"cannot put a file at {request.path}: that is the name of a folder\n")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise web.HTTPConflict(text=f"cannot make the folders above {request.path}: one is a file\n") from error
        unfinished = _temporary_beside(path)
        try:
            with unfinished.open("xb") as file:
                async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                    await asyncio.to_thread(file.write, chunk)
            existed = path.exists()
            unfinished.replace(path)
        except (ConnectionError, ClientPayloadError) as error:
            raise web.HTTPBadRequest(text=f"the upload of {request.path} broke off\n") from error
        finally:
            unfinished.unlink(missing_ok=True)
        return web.Response(status=_created_or_replaced(existed=existed))

    async def _move(self, request: web.Request) -> web.StreamResponse:
        source = self._existing_below_root(request)
        destination = self._destination(request)
        existed = destination.exists()
        if existed and request.headers.get("Overwrite", "T").upper() == "F":
            raise web.HTTPPreconditionFailed(text=f"{destination.name} is there already, and Overwrite is F\n")
        if destination.is_relative_to(source) or source.is_relative_to(destination):
            raise web.HTTPForbidden(text=f"cannot move {request.path}: one of the two places holds the other\n")
        if not destination.parent.is_dir():
            raise web.HTTPConflict(text=f"cannot move {request.path}: there is no folder for {destination.name}\n")
        await asyncio.to_thread(_rename_over, source, destination)
        return web.Response(status=_created_or_replaced(existed=existed))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        path = self._existing_below_root(request)
        await asyncio.to_thread(_remove, path)
        return web.Response(status=web.HTTPNoContent.status_code)

    def _existing_below_root(self, request: web.Request) -> Path:
        path = self._inside(request.raw_path)
        if path == self._root:
            raise web.HTTPForbidden(text="the root of the store stays where it is\n")
        if not path.exists():
            raise web.HTTPNotFound(text=f"nothing at {request.path}\n")
        return path

    def _destination(self, request: web.Request) -> Path:
        value = request.headers.get("Destination")
        if value is None:
            raise web.HTTPBadRequest(text="MOVE wants a Destination header: a URL of this store or a path\n")
        location = urlsplit(value)
        if location.netloc and location.netloc != request.host:
            raise web.HTTPBadGateway(text=f"cannot move to {location.netloc}: this store is {request.host}\n")
        if not location.path.startswith("/"):
            raise web.HTTPBadRequest(text=f"Destination {value!r} is neither a URL nor a path that begins with /\n")
        return self._inside(location.path)

    def _inside(self, raw_path: str) -> Path:
        """Return the file or folder of a percent-encoded path.

        :raises aiohttp.web.HTTPForbidden: if it lies outside the root.
        """
        encoded_names = raw_path.partition("?")[0].split("/")
        names = [os.fsdecode(unquote_to_bytes(name)) for name in encoded_names if name]
        if any(name in (".", "..") or "/" in name or "\0" in name for name in names):
            raise web.HTTPForbidden(text=f"{raw_path} is no plain path: it has dots or an encoded slash in it\n")
        path = self._root.joinpath(*names)
        if not path.resolve().is_relative_to(self._root):
            raise web.HTTPForbidden(text=f"{raw_path} leads out of the store\n")
        return path


class _WholeOrRange(web.FileResponse):
    """A file or the range asked for; compared to the base class, ``If-Range`` knows ETags too.

    It also never sends ``model.tar.gz`` to who asks for ``model.tar`` and accepts gzip.
    """

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        headers = request.headers.copy()
        headers.popall(hdrs.ACCEPT_ENCODING, None)
        condition = headers.pop(hdrs.IF_RANGE, None)
        if condition is not None and condition not in await asyncio.to_thread(self._validators):
            headers.popall(hdrs.RANGE, None)
        return await super().prepare(request.clone(headers=headers))

    def _validators(self) -> tuple[str, ...]:
        """Return the file's ETag and Last-Modified as the base class writes them."""
        try:
            status = self._path.stat()
        except OSError:
            return ()
        last_modified = formatdate(math.ceil(status.st_mtime), usegmt=True)
        return f'"{status.st_mtime_ns:x}-{status.st_size:x}"', last_modified


def _only(credentials: Credentials) -> Middleware:
    expected = BasicAuth(credentials.user, credentials.password, encoding="utf-8").encode().encode()

    @web.middleware
    async def authenticate(request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            raise web.HTTPUnauthorized(
                text="user and password wanted\n", headers={hdrs.WWW_AUTHENTICATE: 'Basic realm="store"'}
            )
        return await handler(request)

    return authenticate


def _listing(folder: Path, *, is_root: bool) -> str:
    """Return the page that nginx's autoindex would make of a folder."""
    title = "/" if is_root else f"{folder.name}/"
    lines = [] if is_root else ['<a href="../">../</a>']
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(_TEMPORARY_PREFIX):
            continue
        try:
            status = entry.stat()
        except OSError:
            continue  # removed meanwhile, or a symlink to nothing
        slash, size = ("/", "-") if entry.is_dir() else ("", str(status.st_size))
        changed = time.strftime("%d-%b-%Y %H:%M", time.gmtime(status.st_mtime))
        text = escape(entry.name.encode("utf-8", "replace").decode()) + slash
        lines.append(f'<a href="{quote(os.fsencode(entry.name))}{slash}">{text}</a> {changed} {size}')
    body = "\n".join(lines)
    return f"<html><head><title>Index of {escape(title)}</title></head><body><pre>\n{body}\n</pre></body></html>\n"


def _wants_folder(raw_path: str) -> bool:
    return raw_path.partition("?")[0].endswith("/")


def _created_or_replaced(*, existed: bool) -> int:
    return web.HTTPNoContent.status_code if existed else web.HTTPCreated.status_code


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY_PREFIX}{uuid4().hex}")


def _rename_over(source: Path, destination: Path) -> None:
    """Rename; a file takes the place of a file in one step, but a folder on either side is put aside first."""
    if not destination.exists() or not (source.is_dir() or destination.is_dir()):
        source.replace(destination)
        return
    aside = _temporary_beside(destination)
    destination.rename(aside)
    source.rename(destination)
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
