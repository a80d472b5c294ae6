"""The contract over a local folder, and what only a local folder can do."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_serving_reload.delivery.donefile import Decision, decide
from airflow_serving_reload.delivery.errors import Corrupt, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import Entry
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.streams import CHUNK

from .bench import FolderBench, Offers
from .suite import DONEFILE, MODEL, StoreContract, fault, look, random_bytes, read, wait_until

NOBODY = 65534


class FileSystemBench(FolderBench):
    """A store in a local folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, FileSystemStore(folder))

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of a file that its permissions close, for root too."""
        path = "/models/forbidden"
        self.put(path, b"secret")
        self._local(path).chmod(0)
        with _not_root():
            yield path


@contextmanager
def _not_root() -> Iterator[None]:
    """Be somebody to whom permissions apply."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def bench(tmp_path: Path) -> FileSystemBench:
    """Give a store in an empty folder."""
    return FileSystemBench(tmp_path / "store")


class TestFileSystem(StoreContract):
    """The contract over a local folder."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, forbids=True, tells_uploads_apart=True)

    @pytest.fixture
    def bench(self, bench: FileSystemBench) -> FileSystemBench:
        """Give a store in an empty folder."""
        return bench


def test_donefile_of_a_whole_second_is_unsettled_for_two(bench: FileSystemBench) -> None:
    """Where a file system counts whole seconds, an empty donefile is unsettled until two of them have passed."""
    while True:
        bench.put(DONEFILE, mtime=int(time.time()) - 1)
        seen = look(bench.store)
        if not seen.settled:
            break
    assert decide(seen, None) is Decision.UNSETTLED
    wait_until(lambda: look(bench.store).settled, "a settled donefile")


def test_donefile_settles_in_a_tick(bench: FileSystemBench) -> None:
    """Where a file system counts nanoseconds, an empty donefile settles as soon as the kernel's clock has moved."""
    bench.put(DONEFILE)
    wait_until(lambda: look(bench.store).settled, "a settled donefile")


def test_path_that_leads_out_is_refused(bench: FileSystemBench, tmp_path: Path) -> None:
    """Neither dots nor symbolic links lead out of the store's folder, to read or to write."""
    (tmp_path / "secret").write_bytes(b"secret")
    bench.make_folder("/models")
    (bench.folder / "models" / "link").symlink_to("../../secret")
    (bench.folder / "out").symlink_to("..")
    for path in ("/../secret", "/models/../../secret", "/models/link", "/out/secret"):
        with fault(Refused, f"using {bench.store.describe(path)}", "leads out"):
            read(bench.store, path)
        with fault(Refused, "using ", "leads out"):
            bench.store.write(path, io.BytesIO(b"new"))
    with fault(Refused, f"using {bench.store.describe('/out')}", "leads out"):
        bench.store.list("/out")
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["secret", "store"]


def test_file_that_appears_where_a_folder_is_looked_for(
    bench: FileSystemBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that training puts there just after it was looked for is not taken for a folder that cannot be read."""
    bench.make_folder("/models")

    def put_behind(path: Path) -> bool:
        path.write_bytes(b"model")
        return False

    monkeypatch.setattr(Path, "is_file", put_behind)
    with fault(NotThereYet, f"listing {bench.store.describe(MODEL)}"):
        bench.store.list(MODEL)


def test_symbolic_link_inside_is_followed(bench: FileSystemBench) -> None:
    """A link that stays in the store's folder leads to its file, and to its folder."""
    bench.put("/releases/7/weights", b"seven")
    (bench.folder / "latest").symlink_to("releases/7")
    assert read(bench.store, "/latest/weights") == b"seven"
    assert bench.store.list("/") == [Entry("latest", True), Entry("releases", True)]


def test_link_in_a_circle_is_refused(bench: FileSystemBench) -> None:
    """A link that goes round in a circle is refused."""
    (bench.folder / "circle").symlink_to("circle")
    with fault(Refused, f"opening {bench.store.describe('/circle')}"):
        read(bench.store, "/circle")


def test_folder_that_holds_itself_is_refused(bench: FileSystemBench) -> None:
    """A folder with a link to itself is refused, and not walked for ever."""
    bench.put("/models/weights")
    (bench.folder / "models" / "again").symlink_to(".")
    with fault(Refused, "listing "):
        list(bench.store.walk("/models"))


def test_name_that_is_too_long_is_refused(bench: FileSystemBench) -> None:
    """A name that the file system cannot hold is refused, since it will never be there."""
    path = f"/models/{'x' * 300}"
    bench.make_folder("/models")
    with fault(Refused, "opening "):
        read(bench.store, path)
    with fault(Refused, "uploading "):
        bench.store.write(path, io.BytesIO(b"new"))


def test_missing_root_is_unreachable(tmp_path: Path) -> None:
    """A store whose folder is absent, as a mount that is not mounted, is unreachable and not merely empty."""
    store = FileSystemStore(tmp_path / "mount")
    for operation in (store.donefile, store.stat, store.list):
        with fault(StoreUnreachable, "", str(tmp_path / "mount"), "mounted"):
            operation("/models")


def test_folder_that_may_not_be_written_to_is_refused(bench: FileSystemBench) -> None:
    """An upload to a folder without the permission to write is refused."""
    bench.make_folder("/models")
    (bench.folder / "models").chmod(0o555)
    with _not_root(), fault(Refused, f"uploading {bench.store.describe(MODEL)}", "permissions"):
        bench.store.write(MODEL, io.BytesIO(b"model"))
    assert bench.names("/models") == []


def test_file_that_grows_is_corrupt(bench: FileSystemBench) -> None:
    """A file that is still being written while it is read is never taken for whole."""
    bench.put(MODEL, random_bytes(CHUNK))
    with bench.store.open(MODEL) as file:
        file.read(10)
        with (bench.folder / MODEL.lstrip("/")).open("ab") as writer:
            writer.write(b"more")
        with fault(Corrupt, f"reading {bench.store.describe(MODEL)}", str(CHUNK)):
            file.read()


def test_file_that_shrinks_is_unreachable(bench: FileSystemBench) -> None:
    """A file that is cut short while it is read is never taken for whole."""
    bench.store.resume_pauses = (0,)
    bench.put(MODEL, random_bytes(2 * CHUNK))
    with bench.store.open(MODEL) as file:
        file.read(CHUNK)
        os.truncate(bench.folder / MODEL.lstrip("/"), CHUNK)
        with fault(StoreUnreachable, f"reading {bench.store.describe(MODEL)}", f"after {CHUNK} of {2 * CHUNK}"):
            file.read()


def test_replaced_file_is_read_to_its_end(bench: FileSystemBench) -> None:
    """A file that is replaced by a rename while it is read is read as it was opened."""
    old = random_bytes(2 * CHUNK)
    bench.put(MODEL, old)
    with bench.store.open(MODEL) as file:
        start = file.read(10)
        bench.put(MODEL, b"new")
        assert start + file.read() == old


def test_name_that_is_no_text_is_read(bench: FileSystemBench) -> None:
    """A name whose bytes are no UTF-8 is listed, and leads to its file."""
    bench.make_folder("/models")
    Path(os.fsdecode(os.fsencode(bench.folder) + b"/models/caf\xe9")).write_bytes(b"latin")
    assert [read(bench.store, f"/models/{name}") for name in bench.store.walk("/models")] == [b"latin"]


def test_absent_folder_of_an_upload_is_made(bench: FileSystemBench) -> None:
    """An upload to a store whose folder is absent makes it."""
    bench.folder.rmdir()
    bench.store.write(MODEL, io.BytesIO(b"model"))
    assert bench.content(MODEL) == b"model"
    with pytest.raises(NotThereYet):
        bench.store.stat(DONEFILE)
