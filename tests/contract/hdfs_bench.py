"""Stores in a real HDFS, and the same files as its administrator sees them."""

from __future__ import annotations

import io
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from airflow_serving_reload.delivery.errors import NotThereYet, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import Store
from airflow_serving_reload.delivery.streams import CHUNK

from .bench import Address, NetworkBench
from .hadoop_front import Front
from .suite import LONG_AGO, MODEL, NetworkStoreContract, random_bytes, read


class HdfsBench(NetworkBench):
    """A store in HDFS behind a front that is one address for all of it.

    :param front: in front of an empty HDFS.
    """

    connections_without_files = 1

    def __init__(self, front: Front) -> None:
        self.front = front
        self.hdfs = front.hdfs
        self.address = front.address
        self._folders = {""}
        self.store = self.connect()

    def connect(self, address: Address | None = None, *, password: str | None = None) -> Store:
        """Open another store on the same files, without pauses."""
        address = address or self.address
        self.front.seen_as = address
        store = self.open(address)
        store.resume_pauses = (0, 0, 0)
        return store

    def open(self, address: Address) -> Store:
        """Open a store by an address."""
        raise NotImplementedError

    def put(self, path: str, content: bytes = b"", *, mtime: float | None = None) -> None:
        """Make or replace a file, in one step."""
        administrator, beside = self.hdfs.administrator, f"/.beside-{secrets.token_hex(4)}"
        administrator.write(beside, content)
        if mtime is not None:
            administrator.set_times(beside, modification_time=int(mtime * 1000))
        self.make_folder(path.rpartition("/")[0])
        administrator._rename(beside, destination=path, renameoptions="OVERWRITE")

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it."""
        if path not in self._folders:
            self.hdfs.administrator.makedirs(path, permission="777")
            self._folders.add(path)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.hdfs.administrator.delete(path)

    def content(self, path: str) -> bytes | None:
        """Give the content of a file; None if there is none."""
        status = self.hdfs.administrator.status(path, strict=False)
        if status is None:
            return None
        # by its number, because WebHDFS does not find every name again that it takes
        with self.hdfs.administrator.read(f"/.reserved/.inodes/{status['fileId']}") as file:
            data: bytes = file.read()
            return data

    def names(self, folder: str) -> list[str]:
        """Give the names of everything in a folder, hidden ones too, in order."""
        if self.hdfs.administrator.status(folder, strict=False) is None:
            return []
        return sorted(self.hdfs.administrator.list(folder))

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of a file that its permissions close."""
        path = "/models/forbidden"
        self.put(path, b"secret")
        self.hdfs.administrator.set_permission(path, "600")
        yield path

    def assert_never_absent(self, path: str) -> None:
        """Look at a file without a pause while it is replaced again and again."""
        done, missing = threading.Event(), []

        def watch() -> None:
            while not done.is_set():
                missing.append(self.hdfs.administrator.status(path, strict=False) is None)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for number in range(20):
                self.store.write(path, io.BytesIO(b"%d" % number))
        finally:
            done.set()
            watcher.join()
        assert missing
        assert not any(missing)


class ReadThroughContract(NetworkStoreContract):
    """The contract over clients that find another connection by themselves when one breaks."""

    @pytest.mark.parametrize("same_second", [False, True])
    def test_file_replaced_meanwhile_is_not_continued(self, bench: NetworkBench, *, same_second: bool) -> None:
        """Half of one file and half of another are never joined: one comes whole, or none."""
        mtime = LONG_AGO + 60 if same_second else LONG_AGO
        new = random_bytes(2 * CHUNK, seed=2)
        self._read_while(bench, lambda: bench.put(MODEL, new, mtime=mtime), StoreUnreachable, new)

    def test_file_removed_meanwhile_is_not_there_yet(self, bench: NetworkBench) -> None:
        """A file that is removed while its transfer is broken still comes whole, or is not there yet."""
        self._read_while(bench, lambda: bench.remove(MODEL), NotThereYet)

    def _read_while(
        self, bench: NetworkBench, change: Callable[[], None], kind: type[Exception], new: bytes | None = None
    ) -> None:
        """Read a file that is changed in the middle; the DataNode may still have it, or not."""
        content = random_bytes(2 * CHUNK)
        bench.put(MODEL, content, mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[CHUNK], before_cut=change)
        with proxy.running(), bench.connect(proxy.address) as store:
            try:
                assert read(store, MODEL) in (content, new)
            except kind as missing:
                assert "; " in str(missing)  # noqa: PT017 - either is right
