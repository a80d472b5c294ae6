"""The way up: what cannot be read on this host is told as such, and announced to nobody."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.upload import upload

from .models import forbid_listing, write_model


@pytest.fixture
def store(tmp_path: Path) -> FileSystemStore:
    """Make an empty store."""
    (tmp_path / "store").mkdir()
    return FileSystemStore(tmp_path / "store")


def test_an_archive_that_cannot_be_read(
    store: FileSystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that this process may not read is refused by name, as a file of a folder is."""
    packed = tmp_path / "m.tar"
    packed.write_bytes(b"packed")
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == packed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(Refused, match=r"uploading .*/m\.tar: Permission denied; check the model's files"):
        upload(store, "/models", packed, model="m.tar", donefile="donefile")
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize("name", ["m", "m.zip", "m.tar"])
def test_a_folder_that_cannot_be_listed(
    name: str, store: FileSystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose folder cannot be listed is refused by name before anything is sent."""
    model = write_model(tmp_path / "model", "v1")
    forbid_listing(model, monkeypatch)
    with pytest.raises(Refused, match=r"uploading .*/model: Permission denied; check the model's files"):
        upload(store, "/models", model, model=name, donefile="donefile")
    assert not list((tmp_path / "store").iterdir())
