"""What is here already of a model does not come again, and only if it is surely the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery import manifest, steps, transfer
from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.errors import Corrupt, NotThereYet, StoreUnreachable
from airflow_serving_reload.delivery.manifest import Manifest, Memory
from airflow_serving_reload.delivery.stores.base import FileFacts, Opened
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.streams import CHUNK, Readable

from .models import AN_HOUR_NS, SECOND_NS, contents, set_time

LARGE = bytes(range(256)) * (3 * CHUNK // 256)
FILES = {"large": LARGE, "folder/one": b"1", "folder/two": b"2", "x": b"3"}


class _Leaking:
    """Reads until as many bytes have come as may."""

    def __init__(self, source: Readable, store: Store) -> None:
        self._source = source
        self._store = store

    def read(self, size: int = -1, /) -> bytes:
        if self._store.left is not None:
            size = min(size, self._store.left)
            if not size and self._source.read(1):
                raise StoreUnreachable("it broke off")
        data = self._source.read(size)
        self._store.fetched += len(data)
        if self._store.left is not None:
            self._store.left -= len(data)
        return data


class Store(FileSystemStore):
    """A store that counts the bytes it gives, and breaks off when it is to.

    :ivar asked: of which files it was asked for the facts.
    :ivar step: its listings show times in steps of so many nanoseconds.
    :ivar behind: and by a clock that is so many nanoseconds behind.
    :ivar left: bytes that it gives before it breaks off; None for all.
    """

    resume_pauses = ()

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched = 0
        self.left: int | None = None
        self.asked: list[str] = []
        self.step: int | None = 60 * SECOND_NS
        self.behind = 0

    def _stat(self, path: str) -> FileFacts:
        self.asked.append(path)
        return super()._stat(path)

    def _scan(self, folder: str) -> Mapping[str, FileFacts]:
        return {
            name: replace(
                facts, mtime_ns=(facts.mtime_ns - self.behind) // self.step * self.step, resolution_ns=self.step
            )
            for name, facts in super()._scan(folder).items()
            if facts.mtime_ns and self.step
        }

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        with super()._open(path, offset, expected) as opened:
            yield Opened(opened.facts, _Leaking(opened.reader, self), opened.offset)


class Place:
    """A store with a model of some files, and a host."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.model = folder / "store" / "m"
        self.host = folder / "host"
        self.host.mkdir()
        self._written = 0
        for name, data in FILES.items():
            self.write(name, data)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the model, whose time is long past, and minutes behind that of the one before."""
        file = self.model / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self._written += 1
        set_time(file, ahead_ns=self._written * 120 * SECOND_NS - AN_HOUR_NS)

    def receive(self, name: str, *earlier: str, source: str = "here") -> transfer.Moved:
        """Receive the model into a folder of the host."""
        self.store.fetched = 0
        self.store.asked.clear()
        memory = Memory(
            Manifest.go_on(self.host / name, source), [Manifest.read(self.host / old, source) for old in earlier]
        )
        moved = transfer.receive_folder(self.store, "/m", memory)
        assert contents(self.host / name) == contents(self.model)
        return moved

    def is_linked(self, name: str, *folders: str) -> bool:
        """Whether a file is one and the same in several folders of the host."""
        return len({(self.host / folder / name).stat().st_ino for folder in folders}) == 1


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Give a model in a store."""
    return Place(tmp_path)


def test_only_what_changed_comes_again(place: Place) -> None:
    """Of a model that is nearly the same only what changed is fetched, and its digest is that of all of it."""
    first = place.receive("v1")
    assert first.spared == 0
    place.write("x", b"4")
    place.write("new", b"5")
    (place.model / "folder" / "one").unlink()
    second = place.receive("v2", "v1")
    assert place.store.fetched == 2
    assert second.spared == len(LARGE) + 1
    assert place.is_linked("large", "v1", "v2")
    assert not place.is_linked("x", "v1", "v2")
    assert second == place.receive("anew")
    assert place.store.fetched == second.total_bytes


def test_what_was_linked_is_linked_again(place: Place) -> None:
    """A file that never changes is fetched once, whichever of the earlier models are still there."""
    place.receive("v1")
    place.receive("v2", "v1")
    shutil.rmtree(place.host / "v1")
    (place.host / "v1.files").unlink()
    place.receive("v3", "v2", "v1")
    assert place.store.fetched == 0
    assert place.is_linked("large", "v2", "v3")


def test_a_listing_that_proves(place: Place) -> None:
    """Where a listing shows the times of all files, no file is asked for by itself, and a later file is fetched."""
    place.receive("v1")
    place.receive("v2", "v1")
    assert (place.store.fetched, place.store.asked) == (0, [])
    set_time(place.model / "x", ahead_ns=-60 * SECOND_NS)
    place.receive("v3", "v2")
    assert (place.store.fetched, place.store.asked) == (1, ["/m/x"])


def test_a_listing_that_is_too_coarse(place: Place) -> None:
    """A file that came within the step of a listing is asked for, until it came to be known long after its time."""
    set_time(place.model / "x", ahead_ns=-30 * SECOND_NS)
    place.receive("v1")
    place.receive("v2", "v1")
    assert (place.store.fetched, place.store.asked) == (0, ["/m/x"])
    place.store.step = SECOND_NS
    for version, asked in (("v3", 4), ("v4", 0)):
        place.receive(version, f"v{int(version[1]) - 1}")
        assert (place.store.fetched, len(place.store.asked)) == (0, asked)


def test_a_listing_by_another_clock(place: Place) -> None:
    """A listing in a time zone of its own may show a time again, so that each file is asked for."""
    place.store.behind = 3600 * SECOND_NS
    place.receive("v1")
    place.receive("v2", "v1")
    assert (place.store.fetched, len(place.store.asked)) == (0, len(FILES))


def test_a_store_without_listings_of_times(place: Place) -> None:
    """Where no listing tells times, each file is asked for."""
    place.store.step = None
    place.receive("v1")
    place.receive("v2", "v1")
    assert (place.store.fetched, len(place.store.asked)) == (0, len(FILES))


def _touched(file: Path) -> None:
    file.touch()


def _written(file: Path) -> None:
    status = file.stat()
    file.write_bytes(b"?" * status.st_size)


def _replaced(file: Path) -> None:
    status = file.stat()
    shutil.copy2(file, file.with_name("copy"))
    file.with_name("copy").replace(file)
    assert file.stat().st_mtime_ns == status.st_mtime_ns


def _removed(file: Path) -> None:
    file.unlink()


def _made_a_link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def _made_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [_touched, _written, _replaced, _removed, _made_a_link, _made_a_folder])
def test_a_file_that_was_changed_here(damage: Callable[[Path], None], place: Place) -> None:
    """A file of an earlier model that is not as it was when it came is fetched again."""
    place.receive("v1")
    damage(place.host / "v1" / "large")
    place.receive("v2", "v1")
    assert place.store.fetched == len(LARGE)


def test_a_file_that_the_store_cannot_prove(place: Place) -> None:
    """A file that was just written when it came first, and could have been written again since, is fetched again."""
    set_time(place.model / "x", ahead_ns=SECOND_NS)
    place.receive("v1")
    place.receive("v2", "v1")
    assert place.store.fetched == 1


def test_a_model_from_elsewhere(place: Place) -> None:
    """What came from another place in a store, or from another store, proves nothing."""
    place.receive("v1")
    place.receive("v2", "v1", source="there")
    assert place.store.fetched == sum(map(len, FILES.values()))


def test_a_manifest_that_is_damaged(place: Place) -> None:
    """A manifest that is torn in a line tells of the others, and one without its head of nothing."""
    place.receive("v1")
    file = place.host / "v1.files"
    lines = file.read_text().splitlines()
    [large] = [line for line in lines if '"large"' in line and json.loads(line)["sha256"]]
    file.write_text("\n".join(line[:40] if line == large else line for line in lines))
    place.receive("v2", "v1")
    assert place.store.fetched == len(LARGE)
    file.write_text("\n".join(lines[1:]))
    place.receive("v3", "v1")
    assert place.store.fetched == sum(map(len, FILES.values()))


@pytest.mark.parametrize("left", [0, 1, 2, 1000, 1 + CHUNK, CHUNK + CHUNK // 2, len(LARGE) + 1])
def test_a_retry_goes_on(left: int, place: Place) -> None:
    """After a transfer that broke off, what came of it does not come again, be it whole files or a part of one."""
    place.store.left = left
    with pytest.raises(StoreUnreachable):
        place.receive("v1")
    came = place.store.fetched
    place.store.left = None
    moved = place.receive("v1")
    assert place.store.fetched + came == moved.total_bytes
    assert moved.spared == came
    assert moved == place.receive("anew")


def test_a_retry_of_another_model(place: Place) -> None:
    """What came before a transfer broke off is thrown away where the store has another model by then."""
    place.store.left = 2 + CHUNK
    with pytest.raises(StoreUnreachable):
        place.receive("v1")
    place.store.left = None
    place.write("large", LARGE[::-1])
    (place.model / "folder" / "one").unlink()
    place.write("folder/one/below", b"6")
    place.receive("v1")
    assert place.store.fetched == len(LARGE) + 2


def test_a_retry_with_an_earlier_model(place: Place) -> None:
    """A file whose transfer broke off, and that is in an earlier model by now, leaves nothing of its beginning."""
    place.receive("v1")
    place.store.left = 2 + CHUNK
    with pytest.raises(StoreUnreachable):
        place.receive("v2")
    assert (place.host / "v2" / "large.part").exists()
    place.store.left = None
    place.receive("v2", "v1")
    assert place.store.fetched == 0


def test_a_retry_after_a_new_start_of_the_system(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before the system started anew may never have reached the disk, so all of it comes again."""
    place.store.left = 2
    with pytest.raises(StoreUnreachable):
        place.receive("v1")
    place.store.left = None
    monkeypatch.setattr(manifest, "boot_id", lambda: "another")
    place.receive("v1")
    assert place.store.fetched == sum(map(len, FILES.values()))


@pytest.mark.parametrize("name", ["m", "m/large"], ids=["folder", "file"])
def test_a_download_goes_on(name: str, place: Place) -> None:
    """A download of a folder or a file that broke off is gone on with, and nothing lies beside what it brought."""
    place.store.left = CHUNK + 100
    with pytest.raises(StoreUnreachable):
        steps.download(place.store, "/", name, place.host)
    came, place.store.left = place.store.fetched, None
    fetched = steps.download(place.store, "/", name, place.host)
    source = place.model.parent / name
    total = sum(file.stat().st_size for file in ([source] if source.is_file() else source.rglob("*")) if file.is_file())
    assert (came, place.store.fetched) == (CHUNK + 100, total)
    assert fetched.read_bytes() == LARGE if fetched.is_file() else contents(fetched) == contents(source)
    assert {path.name for path in place.host.iterdir()} == {fetched.name, f".{fetched.name}.origin.json"}


def test_a_part_that_is_damaged(place: Place) -> None:
    """A download whose promised digest is not that of what was gone on with brings all of it anew."""
    announced = DonefileVersion(content={"sha256": hashlib.sha256(LARGE).hexdigest()})
    place.store.left = CHUNK + 100
    with pytest.raises(StoreUnreachable):
        steps.download(place.store, "/m", "large", place.host, announced=announced)
    [part] = place.host.rglob("*.part")
    with part.open("r+b") as file:
        file.write(b"damage")
    place.store.left = None
    fetched = steps.download(place.store, "/m", "large", place.host, announced=announced)
    assert fetched.read_bytes() == LARGE
    assert place.store.fetched == 2 * len(LARGE)


def test_a_download_that_is_corrupt(place: Place) -> None:
    """A download that would be corrupt again leaves nothing behind."""
    with pytest.raises(Corrupt):
        steps.download(place.store, "/", "m", place.host, announced=DonefileVersion(content={"sha256": "00"}))
    assert list(place.host.iterdir()) == []


def test_a_download_whose_donefile_vanishes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose donefile is removed while it comes is being replaced, so that nothing of it is kept or used."""
    done = place.model.parent / "donefile"
    done.touch()
    os.utime(done, (1_600_000_000, 1_600_000_000))
    announced = place.store.donefile("/donefile")
    describe = place.store.describe("/donefile")
    receive = transfer.receive_folder

    def receive_and_lose(*arguments: Any, **options: Any) -> transfer.Moved:
        done.unlink(missing_ok=True)
        return receive(*arguments, **options)

    monkeypatch.setattr(transfer, "receive_folder", receive_and_lose)
    with pytest.raises(NotThereYet, match=re.escape(f"looking at {describe}: there is no donefile")):
        steps.download(place.store, "/", "m", place.host, announced=announced)
    assert not (place.host / "m").exists()
