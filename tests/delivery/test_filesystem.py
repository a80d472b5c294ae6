"""What the engine asks of a Linux file system."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from airflow_serving_reload.delivery import filesystem

from .models import contents
from .processes import Child, killed_after_each_change

HOLD = """
import sys
from pathlib import Path
from airflow_serving_reload.delivery import filesystem
with filesystem.lock(Path(sys.argv[1]), waiting=lambda: None):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""


def _nobody_waits() -> None:
    pytest.fail("it had to wait")


def test_exchanging_a_folder_and_a_link(tmp_path: Path) -> None:
    """Two names exchange what they stand for, whatever that is."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    (tmp_path / "link").symlink_to("elsewhere")
    assert filesystem.can_exchange()
    filesystem.exchange(tmp_path / "folder", tmp_path / "link")
    assert contents(tmp_path) == {"folder": ("link", "elsewhere"), "link": ("folder",), "link/a": ("file", b"", False)}


def test_a_failed_exchange_changes_nothing(tmp_path: Path) -> None:
    """An exchange with a name that is not there fails, with both names in its fault."""
    (tmp_path / "a").touch()
    with pytest.raises(FileNotFoundError) as caught:
        filesystem.exchange(tmp_path / "a", tmp_path / "b")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_system_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not know the call says so like a system call does."""
    monkeypatch.setattr(filesystem, "_libc", object())
    with pytest.raises(OSError, match="not implemented") as caught:
        filesystem.exchange(tmp_path / "a", tmp_path / "b")
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.parametrize("known", [True, False], ids=["syncfs", "sync"])
def test_syncing(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are synced with or without the call for one file system alone, and an absent one is told."""
    if not known:
        monkeypatch.setattr(filesystem, "_libc", object())
    filesystem.sync_filesystem(tmp_path)
    filesystem.sync_folder(tmp_path)
    for sync in (filesystem.sync_filesystem, filesystem.sync_folder):
        with pytest.raises(FileNotFoundError):
            sync(tmp_path / "absent")


def test_syncing_ahead(tmp_path: Path) -> None:
    """The disk begins once enough was written, and what it could not take is told at the end, if not before."""
    ahead = filesystem.SyncAhead(tmp_path / "absent")
    ahead.wrote(filesystem.SYNC_EACH - 1)
    ahead.finish()

    ahead = filesystem.SyncAhead(tmp_path / "absent")
    ahead.wrote(filesystem.SYNC_EACH)
    with pytest.raises(FileNotFoundError):
        ahead.finish()

    def write_on(ahead: filesystem.SyncAhead) -> None:
        while True:
            ahead.wrote(filesystem.SYNC_EACH)

    with pytest.raises(FileNotFoundError):
        write_on(filesystem.SyncAhead(tmp_path / "absent"))


def test_replacing_a_file(tmp_path: Path) -> None:
    """A file is made, then replaced by another one with the time that was asked for, and nothing else is left."""
    file = tmp_path / ("x" * 255)
    filesystem.replace_file(file, "旧\n")
    with file.open(encoding="utf-8") as old:
        filesystem.replace_file(file, "新\n", mtime_ns=1_234_567_890_123_456_789)
        assert old.read() == "旧\n"
    assert file.read_text(encoding="utf-8") == "新\n"
    assert file.stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """Whoever is killed while replacing a file leaves the old one or the new one, with its very time."""
    folders = killed_after_each_change(
        tmp_path,
        lambda folder: filesystem.replace_file(folder / "file", "old", mtime_ns=1_000_000_000),
        lambda folder: filesystem.replace_file(folder / "file", "new", mtime_ns=2_000_000_000),
    )
    found = [((folder / "file").read_text(), (folder / "file").stat().st_mtime_ns) for folder in folders]
    old, new = ("old", 1_000_000_000), ("new", 2_000_000_000)
    assert found.count(old) > 1
    assert found == [old] * found.count(old) + [new] * found.count(new)


def test_a_file_that_cannot_be_replaced(tmp_path: Path) -> None:
    """Where the name is that of a folder, the fault is raised and nothing is left beside it."""
    (tmp_path / "folder" / "in it").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        filesystem.replace_file(tmp_path / "folder", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_json_survives(tmp_path: Path) -> None:
    """Any values of JSON are read as they were written, letters that no encoding has included."""
    value = {"name": "模型", "half a letter": "\ud800", "none": None, "list": [1, 2.5]}
    filesystem.replace_json(tmp_path / "file", value)
    assert filesystem.read_json(tmp_path / "file") == value


def test_replacing_a_link(tmp_path: Path) -> None:
    """A link is made, then led elsewhere, and nothing else is left."""
    for target in ("one", "two"):
        filesystem.replace_symlink(tmp_path / "link", target)
        assert str((tmp_path / "link").readlink()) == target
    assert list(tmp_path.iterdir()) == [tmp_path / "link"]


@pytest.mark.parametrize("linkable", [True, False], ids=["link", "copy"])
def test_replacing_by_a_copy(linkable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, or a link, takes another's place with its time and mode, even where hard links cannot be made."""

    def cannot_link(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if not linkable:
        monkeypatch.setattr(os, "link", cannot_link)
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_text("1")
    source.chmod(0o755)
    os.utime(source, ns=(1_000_000_001, 1_000_000_001))
    (tmp_path / "link").symlink_to("nowhere")
    for _ in range(2):
        filesystem.replace_with_copy(source, target)
        filesystem.replace_with_copy(tmp_path / "link", target.with_name("link"))
    assert contents(target.parent) == {"target": ("file", b"1", True), "link": ("link", "nowhere")}
    assert target.stat().st_mtime_ns == 1_000_000_001
    assert target.samefile(source) is linkable


def test_removing_stops_at_links(tmp_path: Path) -> None:
    """Files, links and folders are removed, what links lead to is not, and an absent name is no fault."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").touch()
    (tmp_path / "doomed").mkdir()
    (tmp_path / "doomed" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "file").touch()
    for name in ("doomed", "link", "file", "absent"):
        filesystem.remove_tree(tmp_path / name)
    assert contents(tmp_path) == {"kept": ("folder",), "kept/a": ("file", b"", False)}


def test_a_lock_excludes_other_processes(tmp_path: Path) -> None:
    """Who wants a lock that another process holds is told so once, waits, and gets it when that is done."""
    told = threading.Event()
    with Child("-c", HOLD, tmp_path / "lock") as child:
        assert child.hear() == "held"

        def let_go() -> None:
            assert not told.is_set()
            told.set()
            child.tell()

        with filesystem.lock(tmp_path / "lock", waiting=let_go):
            assert told.is_set()
            assert child.hear() == "released"


def test_a_lock_excludes_within_a_process(tmp_path: Path) -> None:
    """Two threads exclude each other as two processes do, and who waited long enough gives up."""
    with (
        filesystem.lock(tmp_path / "lock", waiting=_nobody_waits),
        pytest.raises(TimeoutError, match="lock was held by another process for 0 s"),
        filesystem.lock(tmp_path / "lock", waiting=lambda: None, timeout=0),
    ):
        pytest.fail("both hold it")
    with filesystem.lock(tmp_path / "lock", waiting=_nobody_waits):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    """A lock does not outlive the process that held it, however that ended."""
    with Child("-c", HOLD, tmp_path / "lock") as child:
        assert child.hear() == "held"
        child.kill()
        with filesystem.lock(tmp_path / "lock", waiting=_nobody_waits):
            pass
