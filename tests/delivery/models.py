"""Models for the tests: how one is written, read back, trained into a store, and served."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery.fetch import Remote
from airflow_serving_reload.delivery.pipeline import Local
from airflow_serving_reload.delivery.servers.base import Expected, Look, Mark, ModelServer, State
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.upload import DonefileFormat, upload

TIMESTAMP = "fluid_time_file"
SECOND_NS = 1_000_000_000
AN_HOUR_NS = 3600 * SECOND_NS


def write_model(folder: Path, version: str) -> Path:
    """Write a model of two files, both of which name its version, and one that only this version has."""
    folder.mkdir(parents=True)
    for name in ("a", "b", f"only-{version}"):
        (folder / name).write_text(version)
    return folder


def version_in(model: Path) -> str:
    """Read a model's version, and see that it is whole: nothing missing, mixed or left of another version."""
    versions = {(model / name).read_text() for name in ("a", "b")}
    assert len(versions) == 1, f"mixed: {versions}"
    version = versions.pop()
    found = {path.name for path in model.iterdir()} - {TIMESTAMP}
    assert found == {"a", "b", f"only-{version}"}
    return version


def contents(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Tell everything that lies below a folder: kinds, bytes, whether executable, targets of links."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("folder",)
        else:
            found[name] = ("file", path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


def forbid_listing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a folder that cannot be listed, as permissions do to whoever is not root."""
    scandir, listdir = os.scandir, os.listdir

    def refuse(path: Any) -> None:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", lambda path=".": refuse(path) or scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path=".": refuse(path) or listdir(path))


def set_time(file: Path, *, ahead_ns: int) -> int:
    """Give a file a time that far ahead of the clock; from beyond two seconds on, no touch waits for it to pass."""
    mtime_ns = time.time_ns() + ahead_ns
    os.utime(file, ns=(mtime_ns, mtime_ns))
    return file.stat().st_mtime_ns


def digest_of_file(file: Path) -> str:
    """Give the digest of an archive, as a donefile promises it."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest_of_folder(folder: Path) -> str:
    """Give the digest of a folder model, as a donefile promises it."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return digest_of_files({file.relative_to(folder).as_posix(): digest_of_file(file) for file in files})


def digest_of_files(digests: Mapping[str, str]) -> str:
    """Give the digest of a folder model whose files have these."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


class Training:
    """Trains models and uploads them to a store in a folder, as `UploadModelOperator` does."""

    def __init__(self, folder: Path, model: str = "model.tar.gz") -> None:
        self.root = folder / "store"
        self.root.mkdir(parents=True, exist_ok=True)
        self.store = FileSystemStore(self.root)
        self.remote = Remote(self.store, "/models", model, "donefile")
        self.donefile = self.root / "models" / "donefile"
        self.packed = self.root / "models" / model
        self._trained = folder / "trained"

    def upload(self, version: str, donefile_format: DonefileFormat = "json") -> None:
        """Upload a model named `m` and its donefile."""
        source = self._trained / version / "m"
        if not source.exists():
            write_model(source, version)
        upload(
            self.store,
            "/models",
            source,
            model=self.remote.model,
            donefile="donefile",
            donefile_format=donefile_format,
            version=version,
        )

    def drop(self, packed: bytes, donefile: bytes = b"") -> None:
        """Put these very bytes into the store, with a donefile whose time is long past."""
        self.packed.parent.mkdir(exist_ok=True)
        self.packed.write_bytes(packed)
        self.donefile.write_bytes(donefile)
        set_time(self.donefile, ahead_ns=-AN_HOUR_NS)


class Host:
    """A serving host: the folder below which the server reads its model."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder / "host"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.temporary = self.folder / "tmp"
        self.local = Local(self.folder, "model", **options)
        self.model = self.folder / "model"
        self.timestamp = self.model / TIMESTAMP
        self.releases = self.local.releases()

    def start_with(self, version: str, *, ahead_ns: int = AN_HOUR_NS) -> None:
        """Put an initial model there by hand, with a timestamp file of that time."""
        write_model(self.model, version)
        self.timestamp.write_text("by hand\n")
        set_time(self.timestamp, ahead_ns=ahead_ns)

    def serve(self, **behaviour: Any) -> Server:
        """Give a server of the model."""
        return Server(self.timestamp, **behaviour)


@dataclass
class Server(ModelServer):
    """A server that honours Paddle's contract each time it is asked, and fails or keeps silent as it is told to.

    It compares whole seconds with "not equal", writes the second down before it loads, and never tries again.

    :param timestamp: the timestamp file in the model that it serves.
    :param fails: how often it fails to load each version.
    :param silent: versions about which it never says a word.
    """

    timestamp: Path
    fails: dict[str, int] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    seen: int | None = None
    loads: list[tuple[str, int]] = field(default_factory=list)
    said: list[tuple[State, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with what is there."""
        if self.timestamp.exists():
            self.seen = self.timestamp.stat().st_mtime_ns // SECOND_NS

    def __str__(self) -> str:
        """Name the server."""
        return "the tests' server"

    def mark_since(self, seconds: float) -> Mark:
        """Note the beginning."""
        return {"said": 0}

    def mark(self) -> Mark:
        """Note what it has said so far."""
        return {"said": len(self.said)}

    def ask(self, mark: Mark) -> Mark:
        """Do one pass of the reload thread."""
        self._pass()
        return mark

    def _pass(self) -> None:
        second = self.timestamp.stat().st_mtime_ns // SECOND_NS
        if second == self.seen:
            return
        self.seen = second
        version = version_in(self.timestamp.parent)
        self.loads.append((version, second))
        if version in self.silent:
            return
        left = self.fails.get(version, 0)
        self.fails[version] = left - 1
        self.said.append((State.REFUSED if left > 0 else State.SERVED, second))

    def look(self, expected: Expected, mark: Mark) -> Look:
        """Tell the last word since the mark."""
        said = self.said[mark["said"] :]
        if not said:
            return Look(State.WAITING)
        state, second = said[-1]
        assert expected.mtime_ns is not None
        assert second == expected.mtime_ns // SECOND_NS
        return Look(state, f"second {second}")

    def patience(self, state: State) -> float:
        """Wait for nothing: what it has to say is said at once."""
        return 0.0
