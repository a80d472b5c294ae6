"""Whole models on the way between a store and this host, counted and digested in the one pass that moves them.

The digest of a model that is a folder is that of the list which `sha256sum` prints of its files, in the order of
their paths: anyone can compute it with `find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`, the
leading `./` left out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

from airflow_serving_reload.delivery.errors import PublicationFailed, Refused, StoreUnreachable
from airflow_serving_reload.delivery.filesystem import SyncAhead
from airflow_serving_reload.delivery.manifest import Memory, OnHost, Remembered, telling
from airflow_serving_reload.delivery.stores.base import FileFacts, Store, child
from airflow_serving_reload.delivery.streams import CHUNK, Digesting, Progress, Readable

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved.

    :param total_bytes: bytes in all.
    :param sha256: their digest.
    :param files: in how many files.
    :param spared: bytes of them that were here before.
    """

    total_bytes: int
    sha256: str
    files: int = 1
    spared: int = field(default=0, compare=False)


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


def receive_file(
    store: Store,
    source: str,
    name: str,
    memory: Memory,
    *,
    listed: FileFacts | None = None,
    progress: Progress | None = None,
) -> Moved:
    """Bring a file over, unless it is here; what came of it before a transfer broke off does not come again.

    :param name: of the file in the folder that comes.
    :param listed: what a listing tells of the file, if it tells of it.
    :param progress: told of the bytes; None for one of this file alone.
    :raises PublicationFailed: the host could not write it.
    """
    manifest, target = memory.arriving, memory.arriving.folder / name
    with saving(target):
        known = memory.find(name, listed, lambda: store.stat(source))
    if known and known.sha256:
        return Moved(known.on_host.size, known.sha256, spared=known.on_host.size)
    partial = _part_of(target)
    expected = manifest.begun(name, partial)
    if expected and not expected.proves_same_file(store.stat(source)):
        expected = None
    length = partial.stat().st_size if expected else 0
    start = length if length < ((expected and expected.size) or 0) else 0
    with store.open(source, start=start, expected=expected if start else None) as remote:
        digesting = Digesting(remote, progress or Progress(f"fetching {store.describe(source)}", remote.facts.size))
        with saving(target), _opened_part(partial, anew=not remote.start) as file:
            if (remote.facts.size or 0) > CHUNK:
                manifest.note(name, _remembered(remote.facts, partial))
            digesting.begin_with(file, remote.start)
            shutil.copyfileobj(digesting, file, CHUNK)
        moved = Moved(digesting.count, digesting.sha256(), spared=remote.start)
        with saving(target):
            partial.replace(target)
            manifest.note(name, _remembered(remote.facts, target, moved.sha256, listed))
    return moved


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _opened_part(partial: Path, *, anew: bool) -> BinaryIO:
    """Open what is here of a file; never to append, so that two processes that go on with it write the same bytes."""
    if not anew:
        return partial.open("r+b")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    return partial.open("x+b")


def _remembered(facts: FileFacts, file: Path, sha256: str | None = None, listed: FileFacts | None = None) -> Remembered:
    on_host = OnHost.of(file)
    if on_host is None:
        raise FileNotFoundError(errno.ENOENT, "something else removed it", str(file))
    return Remembered(facts, on_host, sha256, telling(listed, facts))


@contextmanager
def saving(target: Path) -> Iterator[None]:
    """Tell what was to be written where the host does not let it.

    :raises PublicationFailed: the host did not let it.
    """
    try:
        yield
    except OSError as error:
        raise PublicationFailed(f"saving {target}: {error.strerror}; check space and permissions") from error


def receive_folder(store: Store, path: str, memory: Memory, *, look_again: bool = False) -> Moved:
    """Bring a folder over, file by file, but for the files that are here.

    :param memory: what is here; it knows where the folder goes.
    :param look_again: see behind the last file that all of them are still the same, where no digest will tell.
    :raises Refused: the path is a file.
    :raises StoreUnreachable: one of them is not.
    """
    if store.list(path) is None:
        raise Refused(
            f"fetching {store.describe(path)}: it is a file; set unpacked_filename to the folder inside it "
            "('.' for its top) if it is an archive, or name a folder"
        )
    progress = Progress(f"fetching {store.describe(path)}")
    names = {name: child(path, name) for name in store.walk(path)}
    with saving(memory.arriving.folder):
        memory.arriving.remove_all_but(names, parts=True)
    scan = cache(store.scan)
    ahead = SyncAhead(memory.arriving.folder)
    moved = {}
    for name, source in names.items():
        folder, _, last = source.rpartition("/")
        listed = (scan(folder) or {}).get(last)
        moved[name] = receive_file(store, source, name, memory, listed=listed, progress=progress)
        with saving(memory.arriving.folder):
            ahead.wrote(moved[name].total_bytes - moved[name].spared)
    with saving(memory.arriving.folder):
        ahead.finish()
        memory.arriving.remove_all_but(names, parts=False)
    if look_again:
        _prove_same(store, path, names, memory)
    return _together(moved.items())


def _prove_same(store: Store, path: str, names: Mapping[str, str], memory: Memory) -> None:
    changed = set(store.walk(path)) ^ set(names)
    changed |= {name for name in names if store.stat(names[name]) != memory.arriving.files[name].facts}
    if changed:
        raise StoreUnreachable(
            f"fetching {store.describe(path)}: {min(changed)} changed while the folder came; training may be uploading "
            'the next model, so try again; a donefile with donefile_format="json" tells for sure what belongs together'
        )


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

    :raises Refused: a file or folder in it cannot be read, or a link leads to a folder.
    """
    moved = {}
    progress = Progress(f"uploading {store.describe(path)}")
    for parent, folders, files in os.walk(source, onerror=_refuse):
        folders.sort()
        for local in (Path(parent, name) for name in folders):
            if local.is_symlink():
                raise Refused(f"uploading {local}: it is a link to a folder; copy the folder itself into the model")
        for local in (Path(parent, name) for name in sorted(files)):
            relative = local.relative_to(source).as_posix()
            with opened(local) as file:
                moved[relative] = send(store, child(path, relative), file, progress=progress)
    for relative in set(store.walk(path)) - set(moved):
        store.remove(child(path, relative))
    return _together(moved.items())


def opened(file: Path) -> BinaryIO:
    """Open a file that is to be uploaded.

    :raises Refused: it cannot be read.
    """
    try:
        return file.open("rb")
    except OSError as error:
        raise unreadable(error) from error


def unreadable(error: OSError) -> Refused:
    """Give the fault of a model that cannot be read to be uploaded."""
    return Refused(f"uploading {error.filename}: {error.strerror}; check the model's files")


def _refuse(error: OSError) -> None:
    raise unreadable(error) from error


def _together(moved: Iterable[tuple[str, Moved]]) -> Moved:
    ordered = sorted(moved, key=lambda item: os.fsencode(item[0]))
    listing = "".join(f"{file.sha256}  {name}\n" for name, file in ordered)
    digest = hashlib.sha256(os.fsencode(listing)).hexdigest()
    spared = sum(file.spared for _, file in ordered)
    return Moved(sum(file.total_bytes for _, file in ordered), digest, len(ordered), spared)
