"""The contract over a local folder by its URL, and what every file system of fsspec has in common."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import Entry, child
from airflow_serving_reload.delivery.stores.fsspec import FsspecStore

from .bench import FolderBench, Offers
from .suite import DONEFILE, MODEL, OPERATIONS, StoreContract, fault, random_bytes, read

NOBODY = 65534


class FileBench(FolderBench):
    """A store in a local folder, by its URL."""

    def __init__(self, folder: Path) -> None:
        self.url = f"file://{folder}"
        super().__init__(folder, FsspecStore(LocalFileSystem, self.url))

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of a file that its permissions close, for root too."""
        path = "/models/forbidden"
        self.put(path, b"secret")
        self._local(path).chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield path
        finally:
            if root:
                os.seteuid(0)


@pytest.fixture
def bench(tmp_path: Path) -> FileBench:
    """Give a store in an empty folder."""
    return FileBench(tmp_path / "store")


class TestFile(StoreContract):
    """The contract over a local folder by its URL."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, forbids=True, tells_uploads_apart=True)

    @pytest.fixture
    def bench(self, bench: FileBench) -> FileBench:
        """Give a store in an empty folder."""
        return bench


@pytest.mark.parametrize(
    ("folder", "name", "path"),
    [
        ("s3://bucket", "a", "s3://bucket/a"),
        ("s3://bucket/models/", "a/b", "s3://bucket/models/a/b"),
        ("sftp://host:2222/models", "a", "sftp://host:2222/models/a"),
        ("sftp:///models", "a", "sftp:///models/a"),
        ("file:///", "a", "file:///a"),
        ("/odd://folder", "a", "/odd://folder/a"),
    ],
)
def test_child_of_a_url_is_below_it(folder: str, name: str, path: str) -> None:
    """A name below a folder with a scheme gives a URL below that folder."""
    assert child(folder, name) == path


def test_url_of_a_file_names_it(bench: FileBench) -> None:
    """A file can be named by its path below the store and by its URL, and is described by the URL."""
    bench.put(MODEL, b"model")
    by_url = child(f"{bench.url}/models", "model.tar")
    assert bench.store.describe(MODEL) == bench.store.describe(by_url) == by_url
    assert read(bench.store, by_url) == read(bench.store, MODEL) == b"model"
    assert bench.store.list(f"{bench.url}/models") == [Entry("model.tar", False)]
    assert list(bench.store.walk(bench.url)) == ["models/model.tar"]


def test_file_outside_a_deeper_url_is_out_of_reach(bench: FileBench) -> None:
    """The store of a folder has nothing of the folders beside it."""
    bench.put("/models/a/weights")
    store = FsspecStore(LocalFileSystem, f"{bench.url}/models/b/")
    with fault(NotThereYet, f"asking for {bench.url}/models/b/weights"):
        store.stat("/weights")


def test_link_to_a_folder_is_a_folder(bench: FileBench) -> None:
    """A link is listed as what it leads to, and one that leads nowhere as a file."""
    bench.put("/releases/7/weights", b"seven")
    (bench.folder / "latest").symlink_to("releases/7")
    (bench.folder / "nowhere").symlink_to("releases/8")
    entries = [Entry("latest", True), Entry("nowhere", False), Entry("releases", True)]
    assert bench.store.list("/") == entries
    assert read(bench.store, "/latest/weights") == b"seven"


@pytest.mark.parametrize("in_place", [False, True])
def test_file_replaced_while_it_is_read_is_noticed(bench: FileBench, *, in_place: bool) -> None:
    """A file that is another one when its last byte has come is not taken for whole."""
    bench.store.resume_pauses = (0,)
    bench.put(MODEL, random_bytes(100_000, seed=1))
    with bench.store.open(MODEL) as file:
        file.read(10)
        if in_place:
            (bench.folder / MODEL.lstrip("/")).write_bytes(random_bytes(100_000, seed=2))
        else:
            bench.put(MODEL, random_bytes(100_000, seed=2))
        with fault(StoreUnreachable, f"reading {bench.store.describe(MODEL)}", "replaced", "from the beginning"):
            file.read()


def test_file_removed_while_it_is_read_is_not_there_yet(bench: FileBench) -> None:
    """A file that is gone when its last byte has come is not there yet."""
    bench.store.resume_pauses = (0,)
    bench.put(MODEL, b"model")
    with bench.store.open(MODEL) as file:
        file.read(1)
        bench.remove(MODEL)
        with fault(NotThereYet, f"opening {bench.store.describe(MODEL)}"):
            file.read()


def test_name_of_a_version_is_refused(bench: FileBench) -> None:
    """A name that file systems read more into is refused, before another file is taken for it."""
    path = "/models/model.tar?versionId=1"
    for operation in (bench.store.stat, bench.store.donefile, bench.store.list, bench.store.remove):
        with fault(Refused, f"using {bench.store.describe(path)}", "version"):
            operation(path)
    with fault(Refused, "using ", "version"):
        bench.store.write(path, io.BytesIO(b"model"))


@pytest.mark.parametrize("doing", OPERATIONS)
def test_missing_key_file_is_not_a_missing_donefile(doing: str) -> None:
    """A file that the connection lacks is refused, and not taken for the absence of what is looked for."""

    def connect() -> LocalFileSystem:
        raise FileNotFoundError(2, "No such file or directory", "/keys/id_ed25519")

    with fault(Refused, "connecting to sftp://host/models", "/keys/id_ed25519"):
        OPERATIONS[doing](FsspecStore(connect, "sftp://host/models"))


def test_fault_that_is_its_own_cause_is_told(bench: FileBench) -> None:
    """Where a client raises one fault twice, so that it is among its own causes, the fault is told all the same."""

    class Circular(LocalFileSystem):
        def info(self, path: str, **_options: object) -> dict[str, object]:
            lost = ConnectionError("lost")
            try:
                try:
                    raise lost
                except ConnectionError as first:
                    raise ConnectionError("not again") from first
            except ConnectionError:
                raise lost  # noqa: B904 - this is what is tried

    store = FsspecStore(Circular, bench.url)
    with fault(StoreUnreachable, f"asking for {store.describe(DONEFILE)}", "lost"):
        store.stat(DONEFILE)


def test_fault_of_the_program_is_not_hidden(bench: FileBench) -> None:
    """A fault that comes neither from the store nor from its client is not made into one of a delivery."""

    class Broken(LocalFileSystem):
        def info(self, path: str, **_options: object) -> dict[str, object]:
            raise ZeroDivisionError(path)

    with pytest.raises(ZeroDivisionError):
        FsspecStore(Broken, bench.url).stat(DONEFILE)
