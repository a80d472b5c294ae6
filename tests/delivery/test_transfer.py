"""Models between a store and this host: whole, counted and digested."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from airflow_serving_reload.delivery import transfer
from airflow_serving_reload.delivery.errors import Corrupt, NotThereYet, PublicationFailed, Refused
from airflow_serving_reload.delivery.manifest import Manifest, Memory
from airflow_serving_reload.delivery.stores.base import FileFacts
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.streams import Readable
from airflow_serving_reload.delivery.transfer import Moved

from .models import contents, forbid_listing

FILES = {"a": b"1" * 70_000, "b/模 型": b"", "b/B": b"2", "b/a/-x": b"3", "b.c": b"4"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a model of several folders."""
    for name, data in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "model"


@pytest.fixture
def store(tmp_path: Path) -> FileSystemStore:
    """Make an empty store."""
    (tmp_path / "store").mkdir()
    return FileSystemStore(tmp_path / "store")


def memory(folder: Path) -> Memory:
    """Remember nothing but what came into a folder before."""
    return Memory(Manifest.go_on(folder, "the store"))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_folder_there_and_back(model: Path, store: FileSystemStore, tmp_path: Path) -> None:
    """A folder arrives as it was sent, and both ways tell the same bytes, files and digest."""
    sent = transfer.send_folder(store, "/m", model)
    received = transfer.receive_folder(store, "/m", memory(tmp_path / "back"))
    assert contents(tmp_path / "back") == contents(model) == contents(tmp_path / "store" / "m")
    assert sent == received
    assert (sent.files, sent.total_bytes) == (len(FILES), 70_003)


def test_anyone_can_compute_the_digest_of_a_folder(model: Path, store: FileSystemStore) -> None:
    """The digest of a folder is what the documented command line prints."""
    command = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", command], cwd=model, check=True, capture_output=True, text=True).stdout
    assert transfer.send_folder(store, "/m", model).sha256 == printed.split()[0]


def test_sending_a_folder_again(model: Path, store: FileSystemStore, tmp_path: Path) -> None:
    """What an earlier model had and this one has not is gone from the store."""
    transfer.send_folder(store, "/m", model)
    (model / "a").unlink()
    transfer.send_folder(store, "/m", model)
    assert not (tmp_path / "store" / "m" / "a").exists()


def test_sending_what_cannot_be_read(model: Path, store: FileSystemStore) -> None:
    """A link to nothing, or to a folder that would be left out, is refused by name."""
    (model / "link").symlink_to("b")
    with pytest.raises(Refused, match=r"model/link: .*link to a folder"):
        transfer.send_folder(store, "/m", model)
    (model / "link").unlink()
    (model / "link").symlink_to("nowhere")
    with pytest.raises(Refused, match=r"model/link: No such file"):
        transfer.send_folder(store, "/m", model)


def test_sending_what_cannot_be_listed(
    model: Path, store: FileSystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the model that cannot be listed is refused by name, and nothing is gone from the store."""
    transfer.send_folder(store, "/m", model)
    before = contents(tmp_path / "store")
    with monkeypatch.context() as patch:
        forbid_listing(model / "b", patch)
        with pytest.raises(Refused, match=r"uploading .*model/b: Permission denied; check the model's files"):
            transfer.send_folder(store, "/m", model)
    assert contents(tmp_path / "store") == before


def test_a_folder_that_is_a_file(store: FileSystemStore, tmp_path: Path) -> None:
    """An archive that is fetched as a folder is refused with the option that is missing."""
    (tmp_path / "store" / "m.tar").touch()
    with pytest.raises(Refused, match=r"m\.tar: it is a file; set unpacked_filename"):
        transfer.receive_folder(store, "/m.tar", memory(tmp_path / "host"))


def test_a_file_there_and_back(store: FileSystemStore, tmp_path: Path) -> None:
    """A file arrives as it was sent, under a folder that is made, and is counted and digested on both ways."""
    with (tmp_path / "sent").open("wb+") as file:
        file.write(FILES["a"])
        file.seek(0)
        sent = transfer.send(store, "/f", file)
    received = transfer.receive_file(store, "/f", "folder/f", memory(tmp_path / "new"))
    assert sent == received == Moved(70_000, _sha256(FILES["a"]))
    assert (tmp_path / "new" / "folder" / "f").read_bytes() == FILES["a"]


def test_what_is_not_consumed_is_read_all_the_same(store: FileSystemStore, tmp_path: Path) -> None:
    """A file is read to its end, whatever of it was of interest."""
    (tmp_path / "store" / "f").write_bytes(FILES["a"])
    moved, head = transfer.receive(store, "/f", lambda source: source.read(3))
    assert (moved, head) == (Moved(70_000, _sha256(FILES["a"])), b"111")


class _Longer(FileSystemStore):
    """A store that announces one byte less than it sends."""

    def _facts(self, status: object) -> FileFacts:
        return FileFacts(size=69_999)


def test_a_file_that_does_not_come_whole(store: FileSystemStore, tmp_path: Path) -> None:
    """A file that breaks off, or is another than was announced, leaves the older one."""
    here = memory(tmp_path / "host")
    target = tmp_path / "host" / "f"
    target.write_text("older")
    (tmp_path / "store" / "f").write_bytes(FILES["a"])
    with pytest.raises(Corrupt, match="more than the 69999 bytes that the store announced"):
        transfer.receive_file(_Longer(tmp_path / "store"), "/f", "f", here)
    with pytest.raises(NotThereYet):
        transfer.receive_file(store, "/absent", "f", here)
    assert target.read_text() == "older"


def test_a_host_that_cannot_save(store: FileSystemStore, tmp_path: Path) -> None:
    """A host without room is told from a store that fails."""
    (tmp_path / "store" / "f").touch()
    here = memory(tmp_path / "host")
    (tmp_path / "host" / "file").touch()
    with pytest.raises(PublicationFailed, match=r"saving .*/file/f: (Not a directory|File exists); check space and"):
        transfer.receive_file(store, "/f", "file/f", here)


def test_names_that_a_store_invents(store: FileSystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that names a file out of its folder is refused before anything is written."""
    here = memory(tmp_path / "host")
    monkeypatch.setattr(store, "walk", lambda _folder: iter(["../evil"]))
    monkeypatch.setattr(store, "list", lambda _folder: [])
    with pytest.raises(Refused, match=r"'\.\./evil'"):
        transfer.receive_folder(store, "/m", here)
    assert not list((tmp_path / "host").iterdir())


def test_consuming_may_fail(store: FileSystemStore, tmp_path: Path) -> None:
    """The fault of who consumes the bytes passes through."""

    def refuse(_source: Readable) -> None:
        raise Refused("not this one")

    (tmp_path / "store" / "f").touch()
    with pytest.raises(Refused, match="not this one"):
        transfer.receive(store, "/f", refuse)
