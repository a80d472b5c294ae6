"""The contract over a local folder by its URL, and what every file system of fsspec has in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_serving_reload.delivery.stores.fsspec import FsspecStore

from .bench import FolderBench, Offers
from .suite import StoreContract

NOBODY = 65534


class FileBench(FolderBench):
    """A store in a local folder, by its URL."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, FsspecStore(LocalFileSystem, f"file://{folder}"))

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
