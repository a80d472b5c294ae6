"""Whole models on the way between a store and this host, counted and digested in the one pass that moves them.

The digest of a model that is a folder is that of the list which `sha256sum` prints of its files, in the order of
their paths: anyone can compute it with `find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`, the
leading `./` left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from airflow_serving_reload.delivery.errors import PublicationFailed, Refused
from airflow_serving_reload.delivery.stores.base import Store, child
from airflow_serving_reload.delivery.streams import CHUNK, Digesting, Progress, Readable

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved: bytes in all, their digest, and in how many files."""

    total_bytes: int
    sha256: str
    files: int = 1


def receive(
    store: Store, path: str, consume: Callable[[Readable], Result], progress: Progress | None = None
) -> tuple[Moved, Result]:
    """Read a file of the store to its proven end.

    :param consume: given the bytes; what it leaves is read too.
    :param progress: told of the bytes; None for one of this file alone.
    :return: what was moved, and what `consume` returned.
    """
    with store.open(path) as file:
        source = Digesting(file, progress or Progress(f"fetching {store.describe(path)}", file.facts.size))
        result = consume(source)
        source.drain()
    return Moved(source.count, source.sha256()), result


def receive_file(store: Store, path: str, target: Path, progress: Progress | None = None) -> Moved:
    """Bring a file over; it appears under its name only when it is whole.

    :param progress: told of the bytes; None for one of this file alone.
    :raises PublicationFailed: the host could not write it.
    """

    def save(source: Readable) -> None:
        with saving(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)

    partial = target.with_name(f"{target.name}.part")
    try:
        moved, _ = receive(store, path, save, progress)
        with saving(target):
            partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink()
    return moved


@contextmanager
def saving(target: Path) -> Iterator[None]:
    """Tell what was to be written where the host does not let it.

    :raises PublicationFailed: the host did not let it.
    """
    try:
        yield
    except OSError as error:
        raise PublicationFailed(f"saving {target}: {error.strerror}; make room for it") from error


def receive_folder(store: Store, path: str, target: Path) -> Moved:
    """Bring a folder over, file by file.

    :param target: existing empty folder.
    :raises Refused: the path is a file.
    """
    if store.list(path) is None:
        raise Refused(
            f"fetching {store.describe(path)}: it is a file; set unpacked_filename to the folder inside it "
            "('.' for its top) if it is an archive, or name a folder"
        )
    progress = Progress(f"fetching {store.describe(path)}")
    moved = {name: receive_file(store, child(path, name), target / name, progress) for name in store.walk(path)}
    return _together(moved.items())


def send(
    store: Store, path: str, source: Readable, *, total: int | None = None, progress: Progress | None = None
) -> Moved:
    """Upload a file.

    :param total: its length in bytes, if it is known.
    :param progress: told of the bytes; None for one of this file alone.
    """
    digesting = Digesting(source, progress or Progress(f"uploading {store.describe(path)}", total))
    store.write(path, digesting)
    return Moved(digesting.count, digesting.sha256())


def send_folder(store: Store, path: str, source: Path) -> Moved:
    """Upload a folder, file by file, and remove what an earlier model left there that this one does not have.

    :raises Refused: a file in it cannot be read, or a link leads to a folder.
    """
    moved = {}
    progress = Progress(f"uploading {store.describe(path)}")
    for parent, folders, files in os.walk(source):
        folders.sort()
        for local in (Path(parent, name) for name in folders):
            if local.is_symlink():
                raise Refused(f"uploading {local}: it is a link to a folder; copy the folder itself into the model")
        for local in (Path(parent, name) for name in sorted(files)):
            relative = local.relative_to(source).as_posix()
            with _opened(local) as file:
                moved[relative] = send(store, child(path, relative), file, progress=progress)
    for relative in set(store.walk(path)) - set(moved):
        store.remove(child(path, relative))
    return _together(moved.items())


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise Refused(f"uploading {file}: {error.strerror}; check the model's files") from error


def _together(moved: Iterable[tuple[str, Moved]]) -> Moved:
    ordered = sorted(moved, key=lambda item: os.fsencode(item[0]))
    listing = "".join(f"{file.sha256}  {name}\n" for name, file in ordered)
    digest = hashlib.sha256(os.fsencode(listing)).hexdigest()
    return Moved(sum(file.total_bytes for _, file in ordered), digest, len(ordered))
