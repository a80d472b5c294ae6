"""Archives made by several threads: the same however many they are, and none is left behind by a fault."""

from __future__ import annotations

import os
import random
import tarfile
import threading
from pathlib import Path

import pytest

from airflow_serving_reload.delivery.archive import pack, packing, unpack
from airflow_serving_reload.delivery.errors import Refused

from .models import contents, forbid_listing

MIB = 1 << 20
ENDINGS = [".tar", ".tar.gz", ".tar.zst", ".zip"]
"""Those that are quick to make; `.tar.gz` and `.tar.zst` by several threads."""


def _model(folder: Path, *, mib: int) -> Path:
    """Make a model, one half of which compresses, in large files and in many small ones."""
    (folder / "shards").mkdir(parents=True)
    chance = random.Random(mib)
    (folder / "embedding").write_bytes(chance.randbytes(mib * MIB // 2))
    (folder / "weights").write_bytes(chance.randbytes(1 << 14) * (mib * MIB // 2 >> 14) + b"odd")
    for number in range(300):
        (folder / "shards" / f"{number:03}").write_bytes(chance.randbytes(number))
    return folder


def _packed(folder: Path, ending: str) -> bytes:
    with pack(folder, f"model{ending}") as packed:
        return packed.read()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_folder_gives_the_same_archive(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive depends on nothing but the folder: not on when it is made, nor on how many threads compress."""
    model = _model(tmp_path / "m", mib=3)
    archives = set()
    for threads in (1, 1, 2, 5):
        monkeypatch.setattr(packing, "THREADS", threads)
        archives.add(_packed(model, ending))
    assert len(archives) == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_blocks_of_several_threads_are_one_archive(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What several threads have packed comes out as it went in."""
    monkeypatch.setattr(packing, "THREADS", 3)
    model = _model(tmp_path / "m", mib=6)
    (tmp_path / "staging").mkdir()
    with pack(model, f"model{ending}") as packed:
        unpack(packed, tmp_path / "staging", name="model")
    assert contents(tmp_path / "staging" / "m") == contents(model)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_others_read_what_is_packed(ending: str, tmp_path: Path) -> None:
    """The archive is a plain one, which ends where `tarfile` wants it to."""
    model = _model(tmp_path / "m", mib=2)
    archive = tmp_path / f"model{ending}"
    archive.write_bytes(_packed(model, ending))
    with tarfile.open(archive) as opened:
        names = opened.getnames()
        opened.extractall(tmp_path / "out", filter="data")
    assert names[:2] == ["m", "m/embedding"]
    assert names == sorted(names)
    assert contents(tmp_path / "out" / "m") == contents(model)
    assert ending != ".tar" or archive.stat().st_size % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("ending", ENDINGS)
def test_links_out_of_the_folder(ending: str, tmp_path: Path) -> None:
    """A link to a file elsewhere, as caches of models have them, is packed as that file; tar keeps one within."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "b7").write_bytes(b"weights")
    model = tmp_path / "m"
    model.mkdir()
    for name in ("one", "two"):
        (model / name).symlink_to("../blobs/b7")
    (model / "own").write_bytes(b"weights")
    (model / "three").symlink_to("own")
    (tmp_path / "staging").mkdir()
    with pack(model, f"model{ending}") as packed:
        unpack(packed, tmp_path / "staging", name="model")
    arrived = tmp_path / "staging" / "m"
    assert {name: (arrived / name).read_bytes() for name in ("one", "two", "three")} == dict.fromkeys(
        ("one", "two", "three"), b"weights"
    )
    assert [name for name in ("one", "two", "three") if (arrived / name).is_symlink()] == (
        [] if ending == ".zip" else ["three"]
    )


def test_a_link_to_a_folder_elsewhere(tmp_path: Path) -> None:
    """A link that leads out of the folder, and to no file, is refused when it is packed, not when it is delivered."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "link").symlink_to("../blobs")
    with (
        pack(tmp_path / "m", "m.tar") as packed,
        pytest.raises(Refused, match=r"m/link leads out of it, and to no file"),
    ):
        packed.read()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_fault_in_the_middle_of_packing(ending: str, tmp_path: Path) -> None:
    """A file that vanishes while the archive is under way is told by name, and every thread ends."""
    before = threading.active_count()
    # more than may be packed before anything is read
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "first").write_bytes(os.urandom(24 * MIB))
    (tmp_path / "m" / "second").touch()
    with pack(tmp_path / "m", f"model{ending}") as packed:
        assert packed.read(MIB)
        (tmp_path / "m" / "second").unlink()
        with pytest.raises(Refused, match=r"packing .*m/second: No such file or directory; check the model's files"):
            packed.read()
    assert threading.active_count() == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_that_cannot_be_listed(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the model that cannot be listed is refused by name, and not left out."""
    model = _model(tmp_path / "m", mib=1)
    forbid_listing(model / "shards", monkeypatch)
    with (
        pack(model, f"model{ending}") as packed,
        pytest.raises(Refused, match=r"packing .*m/shards: Permission denied; check the model's files"),
    ):
        packed.read()


@pytest.mark.parametrize("ending", ENDINGS)
def test_packing_that_nobody_reads_any_more(ending: str, tmp_path: Path) -> None:
    """An archive of which only the beginning is read leaves no thread behind."""
    before = threading.active_count()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "first").write_bytes(os.urandom(24 * MIB))
    with pack(tmp_path / "m", f"model{ending}") as packed:
        assert packed.read(MIB)
        assert threading.active_count() > before
    assert threading.active_count() == before
