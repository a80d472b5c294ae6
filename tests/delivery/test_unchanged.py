"""Members of archives that are files of an earlier release: linked if they surely are, and written if not."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from airflow_serving_reload.delivery import archive
from airflow_serving_reload.delivery.archive import Unchanged
from airflow_serving_reload.delivery.archive.unchanged import VAIN_AT_MOST
from airflow_serving_reload.delivery.errors import PublicationFailed, Refused
from airflow_serving_reload.delivery.streams import CHUNK

from .models import contents
from .packing import COMPRESSORS, file, folder, tar

LARGE = os.urandom(CHUNK) + bytes(CHUNK) + b"end"
FILES = {"large": LARGE, "below/small": b"1", "below/模 型": b"22", "empty": b""}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Make an earlier release."""
    return write(tmp_path / "release", FILES)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files of a model."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def packed(files: Mapping[str, bytes], kind: str = "tar") -> bytes:
    """Pack files below a folder `m`."""
    if kind != "zip":
        return COMPRESSORS[kind](tar(*(file(f"m/{name}", data, mode=0o644) for name, data in files.items())))
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as made:
        for name, data in files.items():
            made.writestr(f"m/{name}", data)
    return whole.getvalue()


def unpack(data: bytes, release: Path, inside: str = "m") -> tuple[Path, Unchanged]:
    """Unpack an archive beside an earlier release."""
    target = release.with_name("target")
    target.mkdir()
    unchanged = Unchanged(release, inside)
    archive.unpack(io.BytesIO(data), target, name="a", unchanged=unchanged)
    return target, unchanged


def is_linked(name: str, target: Path, release: Path) -> bool:
    """Whether a file of what was unpacked is the one of the release."""
    return (target / "m" / name).samefile(release / name)


@pytest.mark.parametrize("kind", [*COMPRESSORS, "zip"])
@pytest.mark.parametrize("inside", ["m", "./m/"])
def test_what_is_the_same(kind: str, inside: str, release: Path) -> None:
    """Members that are the same as before are linked, whatever the format; empty ones are made."""
    target, unchanged = unpack(packed(FILES, kind), release, inside)
    assert contents(target / "m") == contents(release)
    assert [name for name in FILES if is_linked(name, target, release)] == ["large", "below/small", "below/模 型"]
    assert (unchanged.files, unchanged.total_bytes) == (3, len(LARGE) + 3)


def test_a_model_at_the_top(release: Path, tmp_path: Path) -> None:
    """The top of an archive is compared with the release where it is the model."""
    unpack(tar(*(file(f"./{name}", data, mode=0o644) for name, data in FILES.items())), release, ".")
    assert (tmp_path / "target" / "large").samefile(release / "large")


@pytest.mark.parametrize("position", [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, len(LARGE) - 1])
def test_what_differs_somewhere(position: int, release: Path) -> None:
    """A member that differs in one byte, wherever that is, comes out as it was packed, and the release is as it was."""
    changed = bytearray(LARGE)
    changed[position] ^= 1
    target, unchanged = unpack(packed({**FILES, "large": bytes(changed)}), release)
    assert (target / "m" / "large").read_bytes() == changed
    assert not is_linked("large", target, release)
    assert is_linked("below/small", target, release)
    assert contents(release) == contents(write(release.with_name("again"), FILES))
    assert unchanged.files == 2


def _absent(path: Path) -> None:
    path.unlink()


def _longer(path: Path) -> None:
    path.write_bytes(LARGE + b"!")


def _executable(path: Path) -> None:
    path.chmod(0o755)


def _set_user_id(path: Path) -> None:
    path.chmod(0o4644)


def _a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("planted", [_absent, _longer, _executable, _set_user_id, _a_link, _a_fifo, _a_folder])
def test_what_is_no_such_file(planted: Callable[[Path], None], release: Path) -> None:
    """What is no plain file with the member's length and permissions is not linked, and nobody waits for it."""
    planted(release / "large")
    target, unchanged = unpack(packed(FILES), release)
    assert (target / "m" / "large").read_bytes() == LARGE
    assert (target / "m" / "large").stat().st_nlink == 1
    assert unchanged.files == 2


def test_a_folder_that_leads_elsewhere(release: Path, tmp_path: Path) -> None:
    """A file that only a link in the release leads to is not linked, since others may change it."""
    (release / "below").rename(tmp_path / "elsewhere")
    (release / "below").symlink_to(tmp_path / "elsewhere")
    target, unchanged = unpack(packed(FILES), release)
    assert (target / "m" / "below" / "small").stat().st_nlink == 1
    assert unchanged.files == 1


def test_a_release_that_a_link_leads_to(release: Path) -> None:
    """The release itself may be named by way of a link."""
    link = release.with_name("link")
    link.symlink_to(release)
    assert unpack(packed(FILES), link)[1].files == 3


@pytest.mark.parametrize("fault", [errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
def test_where_nothing_can_be_linked(fault: int, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system makes no link, or no more of them, what is the same is copied."""

    def refuse(*_names: object, **_options: object) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "link", refuse)
    target, unchanged = unpack(packed(FILES), release)
    assert contents(target / "m") == contents(release)
    assert (target / "m" / "large").stat().st_nlink == 1
    assert unchanged.files == 0


def test_what_stands_twice(release: Path) -> None:
    """A name that stands twice in an archive is refused, be it that of a file that is the same as before."""
    twice = tar(*[file("m/large", LARGE, mode=0o644)] * 2)
    with pytest.raises(Refused, match="the name stands in it twice"):
        unpack(twice, release)


def test_a_folder_of_the_same_name(release: Path) -> None:
    """A file that has the name of a folder of the archive is refused as ever."""
    with pytest.raises(Refused, match=r"a file has the name of its folder|the name stands in it twice"):
        unpack(tar(folder("m/large"), file("m/large", LARGE, mode=0o644)), release)


def test_a_release_that_changes_meanwhile(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody writes into the release while it is compared, nothing of it is taken."""
    compare = os.pread

    def write_meanwhile(descriptor: int, size: int, position: int) -> bytes:
        found = compare(descriptor, size, position)
        with (release / "large").open("r+b") as file:
            file.write(b"meanwhile")
        return found

    monkeypatch.setattr(os, "pread", write_meanwhile)
    with pytest.raises(PublicationFailed, match="it was changed while it was compared"):
        unpack(packed(FILES), release)


def test_another_model_altogether(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of which file after file differs is soon not compared any more."""
    others = {f"{number:03}": b"old" for number in range(2 * VAIN_AT_MOST)}
    write(release, others)
    compared = 0
    compare = os.pread

    def count(*arguments: int) -> bytes:
        nonlocal compared
        compared += 1
        return compare(*arguments)

    monkeypatch.setattr(os, "pread", count)
    target, _ = unpack(packed(dict.fromkeys(others, b"new")), release)
    assert compared == VAIN_AT_MOST
    assert {path.read_bytes() for path in (target / "m").iterdir()} == {b"new"}
