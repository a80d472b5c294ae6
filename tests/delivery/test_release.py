"""Releases: made live in one step, kept to roll back to, and whole whatever happens."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery import filesystem
from airflow_serving_reload.delivery.errors import PublicationFailed, Refused
from airflow_serving_reload.delivery.release import PublishMode, Record, Releases

from . import watching
from .models import TIMESTAMP, contents, version_in, write_model
from .processes import Child, killed_after_each_change


class Host:
    """A folder with one model, and its releases."""

    def __init__(self, folder: Path, name: str = "model") -> None:
        self.folder = folder
        self.model = folder / name
        self.temporary = folder / "tmp"
        self.releases = Releases(folder, name, TIMESTAMP)
        self.kept = self.model.parent / f".{self.model.name}.releases"

    def admit(self, version: str, **facts: Any) -> Record:
        """Take a model of this version in as a release."""
        with self.releases.delivering(), self.releases.staging(self.temporary) as staging:
            return self.releases.admit(write_model(staging / "m", version), version=version, **facts)

    def publish(self, record: Record, mode: PublishMode = "auto") -> Record:
        """Make a release the live one."""
        with self.releases.publishing():
            return self.releases.publish(record, mode)

    def deliver(self, version: str, mode: PublishMode = "auto") -> Record:
        """Take a model in and make it live."""
        return self.publish(self.admit(version), mode)

    def recover(self) -> None:
        """Do what every publication begins with."""
        with self.releases.publishing():
            pass

    def versions(self) -> list[str]:
        """Tell the versions of all releases, the last one published first, and see that each is whole."""
        return [version_in(self.releases.path(record)) for record in self.releases.history()]

    def is_clean(self) -> bool:
        """Whether nothing is there but complete releases with their records, the locks and the state."""
        names = {path.name for path in self.kept.iterdir()}
        names -= {".publish.lock", ".deliver.lock", ".in_place.json"}
        records = {record.release for record in self.releases.history()}
        stray = list(self.folder.rglob("*.tmp"))
        return names == records | {f"{name}.json" for name in records} and not stray


@pytest.fixture
def host(memory_path: Path) -> Host:
    """Make an empty host."""
    return Host(memory_path)


@pytest.fixture
def _no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file system one that cannot exchange a folder for a link."""

    def cannot(first: Path, _second: Path) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(first))

    monkeypatch.setattr(filesystem, "exchange", cannot)


def test_the_first_publication(host: Host) -> None:
    """Into nothing a release is published as a relative link to its folder, beside which lies its record."""
    assert (host.releases.live(), host.releases.previous(), host.releases.history()) == (None, None, [])
    record = host.deliver("v1")
    assert str(host.model.readlink()) == f".model.releases/{record.release}"
    assert version_in(host.model) == "v1"
    assert host.releases.live() == record
    assert host.releases.previous() is None
    assert json.loads((host.kept / f"{record.release}.json").read_text()) == record.to_dict()
    assert (record.origin, record.published is not None) == ("delivered", True)
    assert host.is_clean()


def test_a_later_publication(host: Host) -> None:
    """The link is led to the new release, and the one before stays to roll back to."""
    first, second = host.deliver("v1"), host.deliver("v2")
    assert version_in(host.model) == "v2"
    assert (host.releases.live(), host.releases.previous()) == (second, first)
    assert host.versions() == ["v2", "v1"]


def test_what_a_record_remembers(host: Host) -> None:
    """A record gives back every fact that was put in, and forgets none when another one changes."""
    facts: dict[str, Any] = {
        "donefile": {"mtime_ns": 5, "content": {"version": "七"}},
        "source": "ftp://host/m.tar",
        "sha256": "ab",
        "total_bytes": 7,
        "files": 3,
        "run": {"dag_id": "d"},
    }
    record = host.admit("v1", **facts)
    assert {name: record.to_dict()[name] for name in facts} == facts
    changed = host.releases.remember(record, refused="no")
    assert host.releases.history() == [changed]
    assert Record.from_dict({**changed.to_dict(), "of a later version": 1}) == changed


def test_a_proof_is_of_one_publication(host: Host) -> None:
    """A release that is published again has not been proved to be served since."""
    record = host.releases.remember(host.deliver("v1"), confirmed="then")
    assert host.publish(record).confirmed is None
    assert host.releases.live().confirmed is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        ("v1.2", "-v1.2"),
        ("../../x y", "-x-y"),
        (None, ""),
        ("模型", ""),
        ("x" * 300, "-" + "x" * 40),
        (7, "-7"),
        ("v.tmp", "-v.tmp"),
    ],
)
def test_names_of_releases(version: object, hint: str, host: Host) -> None:
    """A release is named by its time and what is harmless of its version."""
    with host.releases.delivering():
        record = host.releases.admit(write_model(host.folder / "m", "v"), version=version)
    moment, found = record.release[:23], record.release[23:]
    assert (moment[8], moment[-1], found) == ("T", "Z", hint)
    assert host.releases.path(record).parent == host.kept
    # whoever publishes removes what a killed one left
    host.publish(record)
    assert host.releases.live() == host.releases.find(record.release)


def test_a_timestamp_file_out_of_an_archive(host: Host) -> None:
    """A timestamp file that came with the model is not taken in, be it a file, a link or a folder."""
    made: list[Callable[[Path], None]] = [Path.touch, Path.mkdir, lambda path: path.symlink_to("a")]
    for number, make in enumerate(made):
        model = write_model(host.folder / f"m{number}", "v")
        make(model / TIMESTAMP)
        with host.releases.delivering():
            record = host.releases.admit(model)
        assert version_in(host.releases.path(record)) == "v"
        assert not os.path.lexists(host.releases.timestamp_file_of(record))


def test_an_empty_model(host: Host) -> None:
    """A model without a file, or with nothing but a timestamp file, is refused."""
    (host.folder / "m" / "empty").mkdir(parents=True)
    (host.folder / "m" / TIMESTAMP).touch()
    with host.releases.delivering(), pytest.raises(Refused, match="it holds no file"):
        host.releases.admit(host.folder / "m")
    assert host.releases.history() == []


def test_adoption(host: Host) -> None:
    """A real folder in the model's place becomes a release itself, to which one can roll back."""
    write_model(host.model, "v0")
    second = host.deliver("v1")
    adopted = host.releases.previous()
    assert adopted is not None
    assert (adopted.origin, adopted.release.endswith("-adopted")) == ("adopted", True)
    assert version_in(host.releases.path(adopted)) == "v0"
    assert (version_in(host.model), host.releases.live()) == ("v1", second)
    assert host.is_clean()
    host.publish(adopted)
    assert version_in(host.model) == "v0"
    assert host.releases.live().release == adopted.release  # type: ignore[union-attr]


def test_a_reader_never_sees_a_gap(host: Host) -> None:
    """A process that reads without pause sees a whole model at any instant, from the adoption on."""
    write_model(host.model, "v0")
    enough = threading.Event()
    with Child(watching.__file__, host.model) as reader:
        seen = [reader.hear()]
        records = [host.admit(f"v{number}") for number in range(1, 21)]

        def collect() -> None:
            while version := reader.hear():
                seen.append(version)
                if len(seen) > 15:
                    enough.set()
            enough.set()

        thread = threading.Thread(target=collect)
        thread.start()
        publications = 0
        while publications < 60 or not enough.is_set():
            host.publish(records[publications % len(records)])
            publications += 1
        reader.tell()
        thread.join()
    assert set(seen) <= {f"v{number}" for number in range(21)}
    assert seen[0] == "v0"


def test_forced_in_place(host: Host) -> None:
    """Published in place, the model stays the same folder, holds the new files alone, and can be rolled back."""
    write_model(host.model, "v0")
    (host.model / TIMESTAMP).write_text("0")
    (host.model / "stale").mkdir()
    (host.model / "stale" / "file").touch()
    inode = host.model.stat().st_ino
    first = host.deliver("v1", "in_place")
    assert (host.model.stat().st_ino, host.model.is_symlink()) == (inode, False)
    assert version_in(host.model) == "v1"
    assert host.releases.live() == first
    adopted = host.releases.previous()
    assert adopted is not None
    second = host.deliver("v2", "auto")
    assert (version_in(host.model), host.model.is_symlink()) == ("v2", False)
    assert (host.releases.live(), host.releases.previous()) == (second, first)
    host.publish(adopted, "in_place")
    found = contents(host.model)
    assert (found["a"], found["stale/file"], found[TIMESTAMP]) == (
        ("file", b"v0", False),
        ("file", b"", False),
        ("file", b"0", False),
    )
    assert "only-v2" not in found
    assert host.is_clean()


@pytest.mark.usefixtures("_no_exchange")
def test_in_place_where_exchange_is_impossible(host: Host) -> None:
    """Where a folder cannot be exchanged for a link, `auto` publishes in place, and `symlink` says why it cannot."""
    write_model(host.model, "v0")
    with pytest.raises(PublicationFailed, match=r"publishing .* as .*/model: Invalid argument; what was live still is"):
        host.deliver("v1", "symlink")
    assert (version_in(host.model), host.is_clean()) == ("v0", True)
    record = host.deliver("v2")
    assert (version_in(host.model), host.model.is_symlink()) == ("v2", False)
    assert host.releases.live() == record
    assert host.is_clean()


def test_in_place_into_nothing(host: Host) -> None:
    """Where there is no model, publishing in place makes its folder, and adopts nothing."""
    host.deliver("v1", "in_place")
    assert (version_in(host.model), host.model.is_symlink()) == ("v1", False)
    assert host.releases.previous() is None


def test_an_empty_folder_is_not_adopted(host: Host) -> None:
    """A folder in the model's place that holds no file, such as a fresh mount, is no release to roll back to."""
    (host.model / "lost+found").mkdir(parents=True)
    host.deliver("v1", "in_place")
    assert host.releases.previous() is None


def test_in_place_after_a_link(host: Host) -> None:
    """Publishing in place into what is a link is refused, since it would write into a release."""
    host.deliver("v1")
    with pytest.raises(Refused, match=r"publishing in place into .*/model: it is a link; use publish_mode auto"):
        host.deliver("v2", "in_place")
    assert version_in(host.model) == "v1"


def test_a_link_after_in_place(host: Host) -> None:
    """A model that was published in place may be turned into a link."""
    host.deliver("v1", "in_place")
    record = host.deliver("v2", "symlink")
    assert (version_in(host.model), host.model.is_symlink()) == ("v2", True)
    assert host.releases.live() == record


def test_the_timestamp_file_comes_last(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing in place moves the timestamp file when everything else is as it is to be, with its very time."""
    host.deliver("v1", "in_place")
    record = host.admit("v2")
    filesystem.replace_file(host.releases.timestamp_file_of(record), "2\n", mtime_ns=2_000_000_001)
    (host.releases.path(record) / "zzz").touch()  # the last one by name
    replaced: list[tuple[str, set[str]]] = []
    replace = filesystem.replace_with_copy

    def watched(source: Path, path: Path) -> None:
        replaced.append((path.name, {entry.name for entry in host.model.iterdir()}))
        replace(source, path)

    monkeypatch.setattr(filesystem, "replace_with_copy", watched)
    host.publish(record, "in_place")
    assert replaced[-1] == (TIMESTAMP, {"a", "b", "only-v2", "zzz"})
    assert [name for name, _ in replaced].count(TIMESTAMP) == 1
    assert host.releases.timestamp_file.stat().st_mtime_ns == 2_000_000_001


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(OSError(errno.EISDIR, os.strerror(errno.EISDIR)), PublicationFailed), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["fault", "interruption"],
)
def test_a_publication_in_place_that_fails(
    host: Host, monkeypatch: pytest.MonkeyPatch, fault: BaseException, raised: type[BaseException]
) -> None:
    """Where a file of the release cannot take its place, or somebody interrupts, the old model is put back at once."""
    host.deliver("v1", "in_place")
    replace_with_copy = filesystem.replace_with_copy

    def fail_once(source: Path, path: Path) -> None:
        replace_with_copy(source, path)
        if path.name == "b":
            monkeypatch.undo()
            raise fault

    monkeypatch.setattr(filesystem, "replace_with_copy", fail_once)
    with pytest.raises(raised) as caught:
        host.deliver("v2", "in_place")
    if isinstance(fault, OSError):
        assert re.match(r"publishing .*: Is a directory; what was live still is", str(caught.value))
    assert version_in(host.model) == "v1"
    assert version_in(host.releases.path(host.releases.live())) == "v1"  # type: ignore[arg-type]


def test_release_that_is_gone_is_not_restored(host: Host) -> None:
    """Where the release is gone that an unfinished publication in place has to go back to, no file is touched."""
    record = host.deliver("v1", "in_place")
    filesystem.replace_json(host.kept / ".in_place.json", {"live": record.release, "publishing": "another"})
    filesystem.remove_tree(host.releases.path(record))
    for _ in range(2):
        with pytest.raises(Refused, match=f"restoring {record.release} in .*: that release is gone; put it back"):
            host.recover()
        assert version_in(host.model) == "v1"


def test_release_that_cannot_be_listed_is_not_published_in_place(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a release that cannot be listed counts as a fault, and not as an empty one."""
    host.deliver("v1", "in_place")
    record = host.admit("v2")
    below = host.releases.path(record) / "below"
    below.mkdir()
    scandir = os.scandir

    def fail_below(path: Any = ".") -> Any:
        if str(path) == str(below):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail_below)
    with pytest.raises(PublicationFailed, match="Permission denied"):
        host.publish(record, "in_place")
    assert version_in(host.model) == "v1"


KINDS: dict[str, dict[str, str | None]] = {
    "a file": {"thing": "file"},
    "a folder": {"thing/below/deep": "file", "thing/other": "file"},
    "a link to a folder": {"real/below/deep": "file", "thing": None},
    "nothing": {"numbered/2/model": "file"},
}
"""What releases have under one name: paths with content, or links to `real`."""


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_names_of_another_kind_in_place(host: Host, before: str, after: str) -> None:
    """In place, too, a name may be a file in one release and a folder in the next, and no empty folder stays."""

    def deliver(kind: str) -> Record:
        with host.releases.delivering(), host.releases.staging(host.temporary) as staging:
            for name, content in {**KINDS[kind], "always": kind}.items():
                path = staging / "m" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content) if content else path.symlink_to("real")
            record = host.releases.admit(staging / "m")
        return host.publish(record, "in_place")

    first = deliver(before)
    expected = contents(host.model)
    deliver(after)
    assert (host.model / "always").read_text() == after
    host.publish(first, "in_place")
    assert contents(host.model) == expected == contents(host.releases.path(first))


def test_a_long_name_in_place(host: Host) -> None:
    """A name as long as Linux allows takes its place, though its characters have several bytes."""
    with host.releases.delivering(), host.releases.staging(host.temporary) as staging:
        name = "模" * 85
        (write_model(staging / "m", "v1") / name).touch()
        record = host.releases.admit(staging / "m")
    host.publish(record, "in_place")
    assert (host.model / name).exists()
    assert host.is_clean()


def test_a_record_that_is_none(host: Host) -> None:
    """A record that somebody has damaged is named, and what is live stays."""
    record = host.deliver("v1")
    (host.kept / f"{record.release}.json").write_text("")
    with pytest.raises(Refused, match=rf"reading the record .*{record.release}\.json: it is none"):
        host.deliver("v2")
    assert version_in(host.model) == "v1"


def test_an_adoption_in_place_that_fails(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model that was found cannot be taken in, it stays as it is, and nothing of the attempt is left."""
    write_model(host.model, "old")
    record = host.admit("v1")
    before = sorted(host.releases.path(record).parent.iterdir())
    replace_with_copy = filesystem.replace_with_copy

    def no_space(source: Path, path: Path) -> None:
        replace_with_copy(source, path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "replace_with_copy", no_space)
        with pytest.raises(PublicationFailed, match=r"publishing .*: No space left on device; what was live still is"):
            host.publish(record, "in_place")
    assert version_in(host.model) == "old"
    assert [path for path in sorted(host.releases.path(record).parent.iterdir()) if path not in before] == []


def _nothing(host: Host) -> None:
    pass


def _a_folder(host: Host) -> None:
    write_model(host.model, "old")


def _a_release(host: Host) -> None:
    write_model(host.model, "older")
    host.deliver("old")


def _in_place(host: Host) -> None:
    write_model(host.model, "older")
    host.deliver("old", "in_place")


def _in_place_empty(host: Host) -> None:
    host.model.mkdir()


def _two_more(host: Host) -> None:
    for version in ("oldest", "older", "old"):
        host.deliver(version)


def _deliver(mode: PublishMode) -> Callable[[Host], None]:
    def deliver(host: Host) -> None:
        record = host.admit("new")
        filesystem.replace_file(host.releases.timestamp_file_of(record), "1\n")
        host.publish(record, mode)

    return deliver


def _deliver_and_prune(host: Host) -> None:
    host.deliver("new")
    with host.releases.publishing():
        host.releases.prune(2)


KILLED: dict[str, tuple[Callable[[Host], None], Callable[[Host], None], set[str | None]]] = {
    "first": (_nothing, _deliver("auto"), {None, "new"}),
    "adoption": (_a_folder, _deliver("auto"), {"old", "new"}),
    "link": (_a_release, _deliver("auto"), {"old", "new"}),
    "pruning": (_two_more, _deliver_and_prune, {"old", "new"}),
    "first in place": (_in_place_empty, _deliver("in_place"), {None, "new"}),
    "adoption in place": (_a_folder, _deliver("in_place"), {"old", "new"}),
    "in place": (_in_place, _deliver("in_place"), {"old", "new"}),
}


def _live(host: Host) -> str | None:
    return version_in(host.model) if host.model.is_dir() and any(host.model.iterdir()) else None


@pytest.mark.parametrize("case", KILLED)
def test_killed_at_any_instant(case: str, memory_path: Path) -> None:
    """Whenever the publisher is killed, the old model or the new one is whole, and the next run cleans up."""
    prepare, change, whole = KILLED[case]
    folders = killed_after_each_change(
        memory_path, lambda folder: prepare(Host(folder)), lambda folder: change(Host(folder))
    )
    assert len(folders) > 20
    for folder in folders:
        host = Host(folder)
        if "in place" not in case:
            assert _live(host) in whole
        host.recover()
        found = _live(host)
        assert found in whole
        assert host.is_clean()
        live = host.releases.live()
        if live is not None:
            assert version_in(host.releases.path(live)) == found
            assert live.published is not None
        assert set(host.versions()) <= {"new", "old", "older", "oldest"}
        newest = host.deliver("newest", "in_place" if "in place" in case else "auto")
        assert (_live(host), host.releases.live()) == ("newest", newest)
        previous = host.releases.previous()
        assert (version_in(host.releases.path(previous)) if previous else None) == found
    assert found == "new"


def test_staging_that_cannot_be_removed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be removed hides no fault, keeps no release from being taken in, and goes with the next."""

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    def fail() -> None:
        with host.releases.delivering(), host.releases.staging(host.temporary):
            monkeypatch.setattr(filesystem, "remove_tree", busy)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    monkeypatch.undo()
    with host.releases.delivering(), host.releases.staging(host.temporary) as staging:
        record = host.releases.admit(write_model(staging / "m", "v1"))
        monkeypatch.setattr(filesystem, "remove_tree", busy)
    monkeypatch.undo()
    assert host.releases.history() == [record]
    host.admit("v2")
    assert list(host.temporary.iterdir()) == []


def test_what_a_killed_delivery_left_in_staging(host: Host) -> None:
    """What an earlier delivery left unfinished is removed by the next one, and by nobody else's."""
    other = Host(host.folder / "elsewhere")
    other.temporary = host.temporary
    left: list[Path] = []

    def leave(releases: Releases) -> None:
        with releases.delivering(), releases.staging(host.temporary) as staging:
            shutil.copytree(staging, staging.with_name(staging.name + "-left"))
            left.append(staging.with_name(staging.name + "-left"))

    leave(other.releases)
    leave(Releases(host.folder, "model.staging-2", TIMESTAMP))
    leave(host.releases)
    host.admit("v1")
    assert sorted(host.temporary.iterdir()) == sorted(left[:2])


def test_names_with_letters_of_patterns(memory_path: Path) -> None:
    """A model whose name reads like a pattern cleans up after itself, and after no other one."""
    host, other = Host(memory_path, "m[12]*"), Host(memory_path, "m1")
    for each in (host, other):
        each.deliver("v1")
        (memory_path / f".{each.model.name}.0123abcd.tmp").symlink_to("left")
    host.deliver("v2")
    assert not os.path.lexists(memory_path / ".m[12]*.0123abcd.tmp")
    assert os.path.lexists(memory_path / ".m1.0123abcd.tmp")
    assert (version_in(host.model), version_in(other.model)) == ("v2", "v1")


def test_another_model_publishing_beside(host: Host) -> None:
    """What a model of a longer name is just publishing beside is left alone."""
    (host.folder / ".model.v2.0123abcd.tmp").symlink_to("just being published")
    host.recover()
    assert os.path.lexists(host.folder / ".model.v2.0123abcd.tmp")


def test_staging_is_empty_afterwards(host: Host) -> None:
    """Whatever happens while a release is made: nothing stays in the folder for what is unfinished."""

    def fail() -> None:
        with host.releases.delivering(), host.releases.staging(host.temporary) as staging:
            write_model(staging / "m", "v1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(host.temporary.iterdir()) == []


def test_staging_on_another_file_system(host: Host, tmp_path: Path) -> None:
    """A folder from which nothing can be renamed is refused, with the option that chooses it."""
    assert tmp_path.stat().st_dev != host.folder.stat().st_dev
    with (
        host.releases.delivering(),
        pytest.raises(Refused, match=r"on another file system .*; choose a local_tmp_path on the same one"),
        host.releases.staging(tmp_path),
    ):
        pytest.fail("it was taken")


@pytest.mark.parametrize("keep", [-1, 0, 1, 2, 3, 4])
def test_pruning(keep: int, host: Host) -> None:
    """The last releases stay, as many as asked for, but never fewer than two."""
    for number in range(6):
        host.deliver(f"v{number}")
    with host.releases.publishing():
        host.releases.prune(keep)
    assert host.versions() == [f"v{number}" for number in range(5, 5 - max(keep, 2), -1)]
    assert host.is_clean()


def test_pruning_spares_what_is_needed(host: Host) -> None:
    """Neither the live release nor the one to roll back to is removed, however old they are."""
    records = [host.deliver(f"v{number}") for number in range(5)]
    for number in (2, 3, 4):
        records[number] = host.releases.remember(records[number], refused="no")
    host.publish(records[0])
    with host.releases.publishing():
        assert host.releases.previous() == records[1]
        host.releases.prune(2)
    assert host.versions() == ["v0", "v1"]


def test_what_was_given_up_is_not_rolled_back_to(host: Host) -> None:
    """The release to roll back to is the last one before the live one that nobody refused or withdrew."""
    records = [host.deliver(f"v{number}") for number in range(5)]
    host.releases.remember(records[3], refused="no")
    host.releases.remember(records[2], withdrawn="no")
    assert host.releases.previous() == records[1]
    host.admit("never published")
    assert host.releases.previous() == records[1]


@pytest.mark.parametrize("mode", ["auto", "in_place"])
def test_a_clock_that_is_set_back(mode: PublishMode, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which release came before which does not depend on a clock that goes backwards, or stands still."""
    write_model(host.model, "v0")
    for number, clock in enumerate(("2031-02-03", "2031-02-02", "1970-01-01", "1970-01-01", "2031-02-03"), start=1):
        monkeypatch.setattr(f"{Record.__module__}.clock", lambda clock=clock: f"{clock}T00:00:00.999999Z")
        record = host.deliver(f"v{number}", mode)
        assert host.releases.history()[0] == host.releases.live() == record
        assert host.versions() == [f"v{earlier}" for earlier in range(number, -1, -1)]
        assert version_in(host.releases.path(host.releases.previous())) == f"v{number - 1}"  # type: ignore[arg-type]
    with host.releases.publishing():
        host.releases.prune(3)
    assert host.versions() == ["v5", "v4", "v3"]


def test_a_record_that_cannot_be_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a publication cannot be written down, what was live is live again, also where nothing was."""
    replace_json = filesystem.replace_json

    def no_space(path: Path, value: dict[str, Any]) -> None:
        if value.get("published"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        replace_json(path, value)

    def fails(change: Callable[[], object], says: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(filesystem, "replace_json", no_space)
            with pytest.raises(PublicationFailed, match=says):
                change()

    for before in (None, "v1"):
        record = host.admit("v2")
        fails(
            lambda record=record: host.publish(record),  # type: ignore[misc]
            r"publishing .*: No space left on device; what was live still is",
        )
        assert _live(host) == before
        fails(
            lambda record=record: host.releases.remember(record, published="now"),  # type: ignore[misc]
            r"writing the record of .*: No space left on device; check space and permissions",
        )
        host.deliver("v1")


def test_a_lock_that_another_process_keeps(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited too long for another delivery, or publication, is told so, and not to make room."""
    monkeypatch.setattr(filesystem, "lock", partial(filesystem.lock, timeout=0))
    for exclusively, other in (
        (host.releases.delivering, "another delivery"),
        (host.releases.publishing, "another publication"),
    ):
        with (
            exclusively(),
            pytest.raises(PublicationFailed, match=f"waiting for {other} of .*/model: .*held .* for 0 s") as fault,
            exclusively(),
        ):
            pytest.fail("both hold it")
        assert "end it if it hangs" in str(fault.value)
        assert "space" not in str(fault.value)


def test_a_link_in_the_place_of_the_releases(host: Host) -> None:
    """A link where the releases should be is refused, and nothing is written, or removed, where it leads."""
    (host.folder / "elsewhere").mkdir()
    (host.folder / "elsewhere" / "precious.json").write_text("{}")
    host.kept.symlink_to("elsewhere")
    with pytest.raises(
        Refused, match=r"looking at .*/\.model\.releases: it is a link to elsewhere, which somebody else"
    ):
        host.deliver("v1")
    assert contents(host.folder / "elsewhere") == {"precious.json": ("file", b"{}", False)}


def test_pruning_what_cannot_be_removed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old release that cannot be removed keeps nobody from publishing, and is gone after the next time."""
    for number in range(3):
        host.deliver(f"v{number}")

    def cannot(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    with host.releases.publishing(), monkeypatch.context() as patch:
        patch.setattr(filesystem, "remove_tree", cannot)
        host.releases.prune(2)
    assert host.versions() == ["v2", "v1"]
    assert not host.is_clean()
    host.recover()
    assert host.is_clean()


def test_finding_a_release(host: Host) -> None:
    """A release is found by its name, and where there is none of that name, those that are there are told."""
    first, second = host.deliver("v1"), host.deliver("v2")
    assert host.releases.find(first.release) == first
    with pytest.raises(Refused, match=rf"'\.\./x'.*there is none; there are: {second.release}, {first.release}"):
        host.releases.find("../x")


def test_a_release_that_is_gone(host: Host) -> None:
    """A release whose folder was removed is not published."""
    host.deliver("v1")
    gone = host.admit("v2")
    shutil.rmtree(host.releases.path(gone))
    with pytest.raises(PublicationFailed, match="the release is gone"):
        host.publish(gone)
    assert version_in(host.model) == "v1"


@pytest.mark.parametrize("target", ["/srv/model", "elsewhere", ".other.releases/x", ".model.releases/x/y"])
def test_a_link_of_somebody_else(target: str, host: Host) -> None:
    """A link in the model's place that leads to no release is refused and left alone."""
    host.model.symlink_to(target)
    with pytest.raises(Refused, match=f"it is a link to {target}, which is none of its releases"):
        host.releases.live()
    with pytest.raises(Refused, match="none of its releases"):
        host.deliver("v1")
    assert str(host.model.readlink()) == target


def test_a_file_in_the_models_place(host: Host) -> None:
    """A file where the model should be is refused and left alone."""
    host.model.write_text("precious")
    with pytest.raises(Refused, match=r"looking at .*/model: it is a file"):
        host.deliver("v1")
    assert host.model.read_text() == "precious"


@pytest.mark.parametrize("name", ["", ".", "..", "/abs", "a/../b", "a/..", "../a", "a\0b"])
@pytest.mark.parametrize("option", ["local_model_name", "local_timestamp_file"])
def test_names_that_escape(name: str, option: str, tmp_path: Path) -> None:
    """A name that could leave its folder is refused before anything is done."""
    names = {"local_model_name": "model", "local_timestamp_file": TIMESTAMP, option: name}
    with pytest.raises(Refused, match=f"using {option} .*: it must be a name, or a relative path without"):
        Releases(tmp_path, names["local_model_name"], names["local_timestamp_file"])


def test_a_model_in_a_folder(memory_path: Path) -> None:
    """A model name may be a path: everything of it lies beside the model."""
    host = Host(memory_path, "group/模型 1")
    host.deliver("v1")
    assert version_in(memory_path / "group" / "模型 1") == "v1"
    assert (memory_path / "group" / ".模型 1.releases").is_dir()
    assert host.is_clean()


def test_hosts_that_do_not_let_it(memory_path: Path, tmp_path: Path) -> None:
    """Where the host does not let something happen, the fault says what, and that the old model is still live."""
    (memory_path / "file").touch()
    for path, name in ((memory_path / "file", "model"), (memory_path, "x" * 250)):
        with pytest.raises(PublicationFailed, match=r"preparing .*; what was live still is; check space"):
            Host(path, name).deliver("v1")
    host = Host(memory_path)
    host.temporary = memory_path / "file"
    with pytest.raises(PublicationFailed, match=r"preparing .*/file: File exists"):
        host.deliver("v1")
    model = write_model(tmp_path / "m", "v1")
    with (
        host.releases.delivering(),
        pytest.raises(PublicationFailed, match=r"taking .*/m in as a release of .*: Invalid cross-device link"),
    ):
        host.releases.admit(model)
    assert host.releases.history() == []
    assert version_in(model) == "v1"


def test_a_link_that_cannot_be_replaced(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publication that the file system stops leaves the old model live, and says so."""
    host.deliver("v1")
    record = host.admit("v2")

    def cannot(_path: Path, _target: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(filesystem, "replace_symlink", cannot)
    with pytest.raises(PublicationFailed, match=r"publishing .*: Read-only file system; what was live still is"):
        host.publish(record)
    assert version_in(host.model) == "v1"
    assert host.releases.find(record.release).published is None


HOLD = """
import sys
from pathlib import Path
from airflow_serving_reload.delivery.release import Releases
with getattr(Releases(Path(sys.argv[1]), sys.argv[2], "t"), sys.argv[3])():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("what", ["publishing", "delivering"])
def test_publishers_exclude_each_other(what: str, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Of two processes that publish, or deliver, one model the second one waits; what is about others does not."""
    caplog.set_level("INFO")
    entered = threading.Event()

    def enter() -> None:
        with getattr(host.releases, what)():
            entered.set()

    with Child("-c", HOLD, host.folder, "model", what) as child:
        assert child.hear() == "held"
        other = "delivering" if what == "publishing" else "publishing"
        with getattr(host.releases, other)(), getattr(Host(host.folder, "model2").releases, what)():
            pass
        assert not caplog.messages
        thread = threading.Thread(target=enter)
        thread.start()
        while not caplog.messages:
            thread.join(0.01)
            assert thread.is_alive()
        assert not entered.is_set()
        child.tell()
        thread.join()
        assert entered.is_set()
    assert [message for message in caplog.messages if "waiting for another" in message] == caplog.messages


def test_a_killed_publisher_holds_nothing(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A lock held by a process that was killed does not stay."""
    caplog.set_level("INFO")
    with Child("-c", HOLD, host.folder, "model", "publishing") as child:
        assert child.hear() == "held"
        child.kill()
        host.deliver("v1")
    assert not [message for message in caplog.messages if "waiting" in message]


def test_taking_in_while_another_one_publishes(host: Host) -> None:
    """A model that is taken in while others publish, and clean up, is neither refused nor forgotten."""
    host.deliver("v0")
    done = threading.Event()

    def publish() -> None:
        while not done.is_set():
            host.recover()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for number in range(1, 6):
            host.admit(f"v{number}")
    finally:
        done.set()
        thread.join()
    assert len(host.versions()) == 6
