"""The verb: from a donefile in the store to the proof that the server serves its model."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery import fetch, filesystem, timestamp
from airflow_serving_reload.delivery.archive import Limits
from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.errors import (
    Corrupt,
    DeliveryError,
    NotThereYet,
    PublicationFailed,
    Refused,
    ReloadRefused,
    ReloadUnanswered,
    StoreUnreachable,
)
from airflow_serving_reload.delivery.fetch import FETCHES_AT_MOST, Remote
from airflow_serving_reload.delivery.pipeline import Outcome, deliver, make_live, publish_only, roll_back
from airflow_serving_reload.delivery.release import Record, Releases
from airflow_serving_reload.delivery.servers.base import Expected, Look
from airflow_serving_reload.delivery.stores.base import FileFacts, Opened, RemoteFile
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.streams import CHUNK, Readable
from tests.forked import fork, status_of

from .models import (
    AN_HOUR_NS,
    SECOND_NS,
    TIMESTAMP,
    Host,
    Server,
    Training,
    contents,
    digest_of_folder,
    set_time,
    version_in,
    write_model,
)
from .packing import file, symlink, tar
from .processes import Child, killed_after_each_change


@pytest.fixture
def training(memory_path: Path) -> Training:
    """Give an empty store, and training that uploads to it."""
    return Training(memory_path)


@pytest.fixture
def host(memory_path: Path) -> Host:
    """Give a host that serves an initial model, whose timestamp lies so far ahead that no touch has to wait."""
    host = Host(memory_path)
    host.start_with("v0")
    return host


def bring(training: Training, host: Host, **options: Any) -> Outcome:
    """Deliver what the store has."""
    return deliver(training.remote, host.local, **{"unpacked_filename": "m", "temporary": host.temporary, **options})


def _second(host: Host) -> int:
    return host.timestamp.stat().st_mtime_ns // SECOND_NS


class State:
    """Everything that must not change where a delivery fails."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._before = self._look()

    def _look(self) -> tuple[Any, ...]:
        host = self._host
        link = host.model.readlink() if host.model.is_symlink() else None
        releases = contents(host.folder / ".model.releases")
        kept = {name: found for name, found in releases.items() if not name.endswith(".lock")}
        unfinished = list(host.temporary.glob("*"))
        return link, host.timestamp.stat().st_mtime_ns, contents(host.model), kept, unfinished

    def is_unchanged(self) -> bool:
        """Whether model, time and releases are those from before, and nothing unfinished is left."""
        return self._look() == self._before


def test_a_delivery(training: Training, host: Host) -> None:
    """A new model is fetched, published with its time moved forward, confirmed and recorded, and the old one kept."""
    before, server = _second(host), host.serve()
    training.upload("v1")
    outcome = bring(training, host, server=server, run={"dag_id": "d"})
    assert version_in(host.model) == "v1"
    assert _second(host) > before
    assert server.loads == [("v1", _second(host))]
    record = host.releases.live()
    assert record == outcome.record
    assert outcome.changed
    assert outcome.previous == host.releases.previous().release  # type: ignore[union-attr]
    assert record.confirmed
    announced = json.loads(training.donefile.read_text())
    assert (record.sha256, record.total_bytes, record.files) == (announced["sha256"], announced["size"], 3)
    assert (record.source, record.run) == (str(training.packed), {"dag_id": "d"})
    assert DonefileVersion.from_dict(record.donefile or {}) == training.remote.look()
    assert record.release.endswith("-v1")
    assert list(host.temporary.iterdir()) == []


def test_what_a_delivery_tells(training: Training, host: Host) -> None:
    """The outcome is a dict of plain values that survives JSON, with the seconds of each stage."""
    training.upload("v1")
    told = bring(training, host, server=host.serve()).to_dict()
    assert json.loads(json.dumps(told)) == told
    record = host.releases.live()
    assert record is not None
    assert told == {
        "changed": True,
        "release": record.release,
        "previous_release": host.releases.previous().release,  # type: ignore[union-attr]
        "donefile": record.donefile,
        "sha256": record.sha256,
        "bytes": record.total_bytes,
        "files": 3,
        "seconds": told["seconds"],
        "confirmed": True,
    }
    assert set(told["seconds"]) == {"look", "fetch", "stage", "publish", "confirm"}


def test_publishing_and_touching_are_one(training: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new model and its new time appear by the same rename, and no server that looks between sees them apart."""
    before = _second(host)
    seen: list[tuple[str, bool]] = []
    replace_symlink = filesystem.replace_symlink

    def watched(path: Path, target: str) -> None:
        seen.append((version_in(host.model), _second(host) > before))
        replace_symlink(path, target)
        seen.append((version_in(host.model), _second(host) > before))

    monkeypatch.setattr(filesystem, "replace_symlink", watched)
    training.upload("v1")
    bring(training, host)
    assert seen == [("v0", False), ("v1", True)]


def test_real_seconds(training: Training, memory_path: Path) -> None:
    """Of two deliveries at once the second one lies a whole second later, and both are loaded by a server."""
    host = Host(memory_path)
    host.start_with("v0", ahead_ns=0)
    server = host.serve()
    training.upload("v1")
    bring(training, host, server=server)
    assert server.loads == [("v1", _second(host))]
    assert host.timestamp.read_text() == f"{_second(host)}\n"


def test_a_first_delivery_into_nothing(training: Training, memory_path: Path) -> None:
    """Where there is no model yet, the delivered one is the first."""
    host = Host(memory_path)
    training.upload("v1")
    outcome = bring(training, host)
    assert (version_in(host.model), outcome.previous, outcome.record.confirmed) == ("v1", None, None)


def test_delivering_is_idempotent(training: Training, host: Host) -> None:
    """What is live is not delivered again, and its time is not touched, unless forced."""
    training.upload("v1")
    first = bring(training, host, server=host.serve())
    state = State(host)
    again = bring(training, host, server=host.serve())
    assert (again.changed, again.record, again.previous) == (False, first.record, first.record.release)
    assert state.is_unchanged()
    before = _second(host)
    forced = bring(training, host, force=True)
    assert (forced.changed, forced.previous) == (True, first.record.release)
    assert forced.record.release != first.record.release
    assert _second(host) > before


def test_two_uploads_of_one_model(training: Training, host: Host) -> None:
    """The same model uploaded again is another donefile version, and is delivered."""
    for _ in range(2):
        training.upload("v1")
        assert bring(training, host).changed


def test_no_donefile(training: Training, host: Host) -> None:
    """A donefile that is not there yet means to wait, and where it should be."""
    training.upload("v1")
    training.donefile.unlink()
    state = State(host)
    with pytest.raises(NotThereYet, match=f"looking at {training.donefile}: there is no donefile; wait until"):
        bring(training, host)
    assert state.is_unchanged()


def test_a_donefile_before_its_model(training: Training, host: Host) -> None:
    """A donefile whose model is not there is told by the model's name."""
    training.drop(b"")
    training.packed.unlink()
    with pytest.raises(NotThereYet, match=r"model\.tar\.gz: it does not exist"):
        bring(training, host)
    assert version_in(host.model) == "v0"


def test_an_unsettled_donefile(training: Training, host: Host) -> None:
    """A second upload that the store cannot tell from the first one ends up live all the same."""

    class Store(FileSystemStore):
        looks = 0

        def donefile(self, path: str) -> DonefileVersion | None:
            self.looks += 1
            if self.looks == 2:
                training.upload("v2", "empty")
                os.utime(training.donefile, ns=(second_ns, second_ns))
            return super().donefile(path)

    training.upload("v1", "empty")
    second_ns = training.donefile.stat().st_mtime_ns // SECOND_NS * SECOND_NS
    os.utime(training.donefile, ns=(second_ns, second_ns))
    training.remote = Remote(Store(training.root), "/models", "model.tar.gz", "donefile")
    assert bring(training, host).changed
    assert version_in(host.model) == "v2"
    assert not bring(training, host).changed


def test_a_donefile_that_never_settles(
    training: Training, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A donefile that is touched all the time is waited for, which is logged, and given up as one to try again."""

    class Store(FileSystemStore):
        def donefile(self, path: str) -> DonefileVersion | None:
            second_ns = time.time_ns() // SECOND_NS * SECOND_NS
            os.utime(training.donefile, ns=(second_ns, second_ns))
            return super().donefile(path)

    monkeypatch.setattr(fetch, "SETTLES_WITHIN", 0)
    training.upload("v1", "empty")
    training.remote = Remote(Store(training.root), "/models", "model.tar.gz", "donefile")
    with (
        caplog.at_level("INFO", logger=fetch.__name__),
        pytest.raises(StoreUnreachable, match=r'donefile: after 0 s it is still too young .*donefile_format="json"'),
    ):
        bring(training, host)
    assert [line for line in caplog.messages if line.startswith(f"waiting until {training.donefile}")]
    assert version_in(host.model) == "v0"


class Meanwhile(FileSystemStore):
    """A store in which something happens while a model is fetched."""

    def __init__(self, root: Path, happens: Callable[[int], None]) -> None:
        super().__init__(root)
        self._happens = happens
        self.fetches = 0

    def open(self, path: str, **options: Any) -> Any:
        """Open a file, and let it happen if it is the model."""
        if not path.endswith("donefile"):
            self.fetches += 1
            opened = RemoteFile(self, path, **options)
            self._happens(self.fetches)
            return opened
        return super().open(path, **options)


def _meanwhile(training: Training, happens: Callable[[int], None]) -> Meanwhile:
    store = Meanwhile(training.root, happens)
    training.remote = Remote(store, "/models", "model.tar.gz", "donefile")
    return store


def test_a_donefile_that_changes_meanwhile(training: Training, host: Host) -> None:
    """Where a newer model is announced while one is fetched, the newer one is delivered, and the other one is not."""
    training.upload("v1")
    store = _meanwhile(training, lambda number: training.upload("v2") if number == 1 else None)
    outcome = bring(training, host)
    assert (version_in(host.model), store.fetches) == ("v2", 2)
    assert DonefileVersion.from_dict(outcome.record.donefile or {}) == training.remote.look()
    assert len(host.releases.history()) == 2
    assert list(host.temporary.iterdir()) == []


@pytest.mark.parametrize("packed", [b"", b"<html>" * 1000, tar(file("m/a"), file("m/a"))], ids=["cut", "page", "bad"])
def test_a_broken_model_that_is_replaced_meanwhile(packed: bytes, training: Training, host: Host) -> None:
    """A model that cannot be used is not complained about where a newer one is announced meanwhile."""
    training.drop(packed)
    _meanwhile(training, lambda number: training.upload("v2") if number == 1 else None)
    bring(training, host)
    assert version_in(host.model) == "v2"


def test_a_donefile_that_goes_meanwhile(training: Training, host: Host) -> None:
    """A model whose donefile is taken back while it is fetched is not delivered."""
    training.upload("v1")
    _meanwhile(training, lambda _number: training.donefile.unlink())
    with pytest.raises(NotThereYet, match="there is no donefile"):
        bring(training, host)
    assert version_in(host.model) == "v0"


def test_a_donefile_that_never_rests(training: Training, host: Host) -> None:
    """Where each fetch is overtaken by a newer upload, a bounded number of times is enough to give up for now."""
    training.upload("v1")
    store = _meanwhile(training, lambda number: training.upload(f"v{number + 1}"))
    state = State(host)
    with pytest.raises(StoreUnreachable, match="its donefile changed each of 5 times"):
        bring(training, host)
    assert store.fetches == FETCHES_AT_MOST
    assert state.is_unchanged()


def _announced(packed: bytes, **changes: Any) -> bytes:
    facts = {"model": "model.tar.gz", "sha256": hashlib.sha256(packed).hexdigest(), "size": len(packed)}
    return json.dumps({**facts, **changes}).encode()


GOOD = tar(file("m/a", b"v1"), file("m/b", b"v1"), file("m/only-v1", b"v1"))
BAD: dict[str, tuple[bytes, bytes, type[DeliveryError], str]] = {
    "wrong digest": (
        GOOD,
        _announced(GOOD, sha256="0" * 64),
        Corrupt,
        "its sha256 is .*, but the donefile says 000",
    ),
    "wrong size": (
        GOOD,
        _announced(GOOD, size=1),
        Corrupt,
        f"its length is {len(GOOD)}, but the donefile says 1;",
    ),
    "truncated": (GOOD[:1000], b"", Corrupt, "upload it again"),
    "truncated, announced": (GOOD[:1000], _announced(GOOD), Corrupt, "upload it again"),
    "empty": (b"", b"", Corrupt, "it ends after 0 bytes, which is no archive"),
    "no archive": (b"<html>" * 1000, b"", Refused, "it begins with b'<html>"),
    "upwards": (tar(file("../evil")), b"", Refused, "'../evil': its name is absolute or leads upwards"),
    "link out": (tar(file("m/a"), symlink("m/l", "/etc")), b"", Refused, "a link to '/etc', out of the archive"),
    "link aside": (
        tar(file("m/a"), file("x"), symlink("m/l", "../x")),
        b"",
        Refused,
        "'l' is a link to '../x', out",
    ),
    "other folder": (tar(file("n/a")), b"", Refused, r"looking for the folder 'm' .*: at its top there is 'n'"),
    "nothing": (bytes(10240), b"", Refused, "at its top there is nothing"),
    "no file": (tar(file("m/" + TIMESTAMP)), b"", Refused, "it holds no file"),
    "too much": (tar(file("m/a", bytes(5000))), b"", Refused, "it would unpack to more than 4000 bytes"),
}


@pytest.mark.parametrize("established", [True, False], ids=["releases", "first"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_models(kind: str, established: bool, training: Training, host: Host) -> None:
    """Whatever is wrong with a model: the old one, its time and all releases stay, and nothing unfinished is left."""
    packed, donefile, fault, why = BAD[kind]
    if established:
        training.upload("v1")
        bring(training, host)
    state = State(host)
    training.drop(packed, donefile)
    with pytest.raises(fault, match=why):
        bring(training, host, limits=Limits(total_bytes=4000))
    assert state.is_unchanged()


def test_a_store_that_breaks_off(training: Training, host: Host) -> None:
    """A store that sends less than it announced has not delivered anything."""

    class Short(FileSystemStore):
        resume_pauses = ()

        def _facts(self, status: os.stat_result) -> Any:
            facts = super()._facts(status)
            return type(facts)(size=status.st_size + 1, mtime_ns=facts.mtime_ns) if status.st_size > 1000 else facts

    training.drop(GOOD)
    training.remote = Remote(Short(training.root), "/models", "model.tar.gz", "donefile")
    with pytest.raises(StoreUnreachable, match=f"it broke off after {len(GOOD)} of {len(GOOD) + 1} bytes"):
        bring(training, host)
    assert version_in(host.model) == "v0"
    assert list(host.temporary.iterdir()) == []


def test_a_store_that_breaks_off_and_is_gone(training: Training, host: Host) -> None:
    """Where nothing can be reached behind a break, the fault is the break, and not the look at the donefile."""

    class Gone(FileSystemStore):
        resume_pauses = ()

        @contextmanager
        def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
            with super()._open(path, offset, expected) as opened:
                if path.endswith("/donefile"):
                    yield opened
                else:
                    training.root.rename(training.root.with_name("elsewhere"))
                    yield replace(opened, reader=io.BytesIO())

    training.drop(GOOD)
    training.remote = Remote(Gone(training.root), "/models", "model.tar.gz", "donefile")
    with pytest.raises(StoreUnreachable, match=r"reading .*/model.tar.gz: it broke off after 0 of"):
        bring(training, host)
    assert version_in(host.model) == "v0"


def test_one_pass(training: Training, host: Host) -> None:
    """A model is unpacked while it comes: the host never holds the packed bytes beside the unpacked ones."""
    held: list[int] = []

    class Watched(FileSystemStore):
        @contextmanager
        def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
            with super()._open(path, offset, expected) as opened:
                yield replace(opened, reader=Reader(opened.reader))

    class Reader:
        def __init__(self, reader: Readable) -> None:
            self._reader = reader

        def read(self, size: int = -1, /) -> bytes:
            files = [path for path in host.temporary.rglob("*") if path.is_file()]
            held.append(sum(path.stat().st_size for path in files))
            return self._reader.read(size)

    noise = random.Random(0).randbytes(20 << 20)
    training.drop(tar(file("m/noise", noise)))
    training.remote = Remote(Watched(training.root), "/models", "model.tar.gz", "donefile")
    bring(training, host)
    assert (host.model / "noise").read_bytes() == noise
    assert 0 < max(held) <= len(noise)
    assert len(set(held)) > 3


def test_names_that_escape(training: Training, host: Host) -> None:
    """No name of an option leads out of its folder, neither in the store nor in the archive nor on the host."""
    training.upload("v1")
    state = State(host)
    for remote in (("../model.tar.gz", "donefile"), ("model.tar.gz", "../../etc/passwd")):
        with pytest.raises(Refused, match="no relative path of plain names"):
            deliver(
                Remote(training.store, "/models", *remote),
                host.local,
                unpacked_filename="m",
                temporary=host.temporary,
            )
    with pytest.raises(Refused, match="it leads out of the archive"):
        bring(training, host, unpacked_filename="../..")
    assert state.is_unchanged()


def test_a_model_that_is_a_folder(memory_path: Path, host: Host) -> None:
    """A folder in the store is a model, digested as the donefile says, and delivered as a whole."""
    training = Training(memory_path, "folder")
    training.upload("v1")
    outcome = bring(training, host, unpacked_filename=None, server=host.serve())
    assert version_in(host.model) == "v1"
    assert (outcome.record.files, outcome.record.total_bytes) == (3, 6)
    training.donefile.write_bytes(_announced(b"", size=6))
    with pytest.raises(Corrupt, match="its sha256 is"):
        bring(training, host, unpacked_filename=None)
    assert version_in(host.model) == "v1"


def test_an_archive_without_its_option(training: Training, host: Host) -> None:
    """An archive that is to be fetched as a folder is refused with the option that is missing."""
    training.upload("v1")
    with pytest.raises(Refused, match="it is a file; set unpacked_filename"):
        bring(training, host, unpacked_filename=None)


def test_old_releases_go(training: Training, memory_path: Path) -> None:
    """As many releases as asked for stay after a delivery."""
    host = Host(memory_path, keep_releases=2)
    host.start_with("v0")
    for version in ("v1", "v2", "v3"):
        training.upload(version)
        bring(training, host)
    assert [version_in(host.releases.path(record)) for record in host.releases.history()] == ["v3", "v2"]


# The server's part


def test_a_server_that_fails_once(training: Training, host: Host) -> None:
    """A release whose first load failed is touched once more, since no server tries twice itself, and then served."""
    before, server = _second(host), host.serve(fails={"v1": 1})
    training.upload("v1")
    outcome = bring(training, host, server=server)
    assert outcome.record.confirmed
    assert server.loads == [("v1", before + 1), ("v1", before + 2)]
    assert version_in(host.model) == "v1"


def test_real_seconds_of_a_second_touch(training: Training, memory_path: Path) -> None:
    """A second touch lies a whole second behind the first one."""
    host = Host(memory_path)
    server = host.serve(fails={"v1": 1})
    training.upload("v1")
    bring(training, host, server=server)
    assert len({second for _, second in server.loads}) == 2


@pytest.mark.parametrize("behaviour", [{"fails": {"v2": 9}}, {"silent": frozenset({"v2"})}], ids=["fails", "silent"])
@pytest.mark.parametrize("mode", ["auto", "in_place"])
def test_a_server_that_refuses(behaviour: dict[str, Any], mode: Any, training: Training, memory_path: Path) -> None:
    """A release that is not served after a second touch is rolled back, and the message tells both."""
    host = Host(memory_path, publish_mode=mode)
    host.start_with("v0")
    training.upload("v1")
    first = bring(training, host).record
    before, server = _second(host), host.serve(**behaviour)
    training.upload("v2")
    why = r"the tests' server (failed to load|does not serve) the release \S+-v2.*"
    with pytest.raises(ReloadRefused, match=rf"{why}; rolled back to {first.release}, which the server serves"):
        bring(training, host, server=server)
    assert server.loads == [("v2", before + 1), ("v2", before + 2), ("v1", before + 3)]
    assert (version_in(host.model), host.model.is_symlink()) == ("v1", mode == "auto")
    live = host.releases.live()
    assert live is not None
    assert (live.release, live.confirmed is not None, live.refused) == (first.release, True, None)
    refused = next(record for record in host.releases.history() if record.release.endswith("-v2"))
    assert refused.refused
    assert refused.confirmed is None


def test_what_was_refused_is_tried_again(training: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run tries a release again that the server refused, without fetching it anew."""
    training.upload("v1")
    with pytest.raises(ReloadRefused):
        bring(training, host, server=host.serve(fails={"v1": 2}))
    monkeypatch.setattr(fetch, "fetch_unpacked", lambda *_arguments, **_options: pytest.fail("it was fetched"))
    outcome = bring(training, host, server=host.serve())
    assert outcome.changed
    assert version_in(host.model) == "v1"
    assert (outcome.record.refused, outcome.record.confirmed is not None) == (None, True)


def test_a_first_release_that_is_refused(training: Training, memory_path: Path) -> None:
    """Where nothing was there before, the message says that there is nothing to roll back to."""
    host = Host(memory_path)
    training.upload("v1")
    with pytest.raises(ReloadRefused, match="; there is no earlier release to roll back to"):
        bring(training, host, server=host.serve(fails={"v1": 9}))
    assert version_in(host.model) == "v1"


def test_a_roll_back_that_is_refused_too(training: Training, host: Host) -> None:
    """A server that serves nothing any more is told from one that went back, and the old model is live all the same."""
    training.upload("v1")
    with pytest.raises(ReloadRefused, match=r"rolled back to \S+-adopted, which is not confirmed either: "):
        bring(training, host, server=host.serve(silent=frozenset({"v0", "v1"})))
    assert version_in(host.model) == "v0"
    assert host.releases.live().confirmed is None  # type: ignore[union-attr]


def _unproved(training: Training, host: Host) -> tuple[Record, Record]:
    """Deliver v1, which is proved to be served, and v2, which is not."""
    training.upload("v1")
    first = bring(training, host, server=host.serve()).record
    training.upload("v2")
    second = bring(training, host).record
    training.upload("v3")
    return first, second


@pytest.mark.parametrize("behaviour", [{"fails": {"v2": 9}}, {"silent": frozenset({"v2"})}], ids=["fails", "silent"])
def test_a_roll_back_to_what_never_worked(behaviour: dict[str, Any], training: Training, host: Host) -> None:
    """Where what was live was never proved and is refused too, the release that was proved before it is live again."""
    first, second = _unproved(training, host)
    server = host.serve(**behaviour)
    server.fails["v3"] = 9
    with pytest.raises(
        ReloadRefused,
        match=rf"\S+-v3.*; .* the release {second.release}.*; rolled back to {first.release}, which the server serves$",
    ):
        bring(training, host, server=server)
    assert version_in(host.model) == "v1"
    assert host.releases.live().confirmed  # type: ignore[union-attr]
    refused = host.releases.find(second.release)
    assert "v2" in (refused.refused or "")
    assert refused.published > second.published  # type: ignore[operator]


def test_a_roll_back_to_the_initial_model(training: Training, host: Host) -> None:
    """Where no release was ever proved, they are tried back to the model that was there before the first delivery."""
    training.upload("v1")
    bring(training, host)
    training.upload("v2")
    with pytest.raises(ReloadRefused, match=r"rolled back to \S+-adopted, which the server serves$"):
        bring(training, host, server=host.serve(fails={"v1": 9, "v2": 9}))
    assert version_in(host.model) == "v0"


def test_a_server_that_serves_none(training: Training, host: Host) -> None:
    """Where the server serves no release at all, what was live is, and none is taken for a bad one."""
    first, second = _unproved(training, host)
    server = host.serve(silent=frozenset({"v1", "v2", "v3"}))
    with pytest.raises(ReloadRefused, match=f"rolled back to {second.release}, which is not confirmed either: "):
        bring(training, host, server=server)
    assert [version for version, _ in server.loads[::2]] == ["v3", "v2", "v1", "v2"]
    assert version_in(host.model) == "v2"
    assert [host.releases.find(record.release).refused for record in (first, second)] == [None, None]


def test_a_server_that_serves_no_more_what_it_has(training: Training, host: Host) -> None:
    """A release that was proved is not left for an older one: that it is not served again is the server's fault."""
    for version in ("v1", "v2"):
        training.upload(version)
        bring(training, host, server=host.serve())
    training.upload("v3")
    server = host.serve(silent=frozenset({"v2", "v3"}))
    with pytest.raises(ReloadRefused, match=r"rolled back to \S+-v2, which is not confirmed either: "):
        bring(training, host, server=server)
    assert version_in(host.model) == "v2"
    assert "v1" not in dict(server.loads)


class StillLoading(Server):
    """A server that takes longer to load a model than it may."""

    def ask(self, mark: Any) -> Any:
        """Give no answer to the order."""
        self.loads.append((version_in(self.timestamp.parent), 0))
        raise ReloadUnanswered("it has not answered")


def test_a_server_that_may_still_be_loading(training: Training, host: Host) -> None:
    """A load whose time is over is not ordered again, neither of the new model nor of those before the old one."""
    _, second = _unproved(training, host)
    server = StillLoading(host.timestamp)
    with pytest.raises(ReloadUnanswered, match=f"answered; rolled back to {second.release}, which is not confirmed e"):
        bring(training, host, server=server)
    assert [version for version, _ in server.loads] == ["v3", "v2"]
    assert version_in(host.model) == "v2"


class Unusable(Server):
    """A server that cannot be looked at, by the fault of who described it."""

    def look(self, expected: Expected, mark: Any) -> Look:
        """Refuse to look."""
        raise Refused("reading its log: Is a directory; check log_path")


def test_a_server_that_cannot_be_asked(training: Training, host: Host) -> None:
    """Where nothing can be proved, the release that worked is live again, and the fault stays what it is."""
    _, second = _unproved(training, host)
    why = "Is a directory; check log_path"
    with pytest.raises(
        Refused, match=f"{why}; rolled back to {second.release}, which is not confirmed either: .*{why}$"
    ):
        bring(training, host, server=Unusable(host.timestamp))
    assert version_in(host.model) == "v2"


class Vanishing(Server):
    """A server whose log can no longer be read once it has the new model."""

    def mark(self) -> Any:
        """Refuse to note the end of its log."""
        if self.loads:
            raise Refused("reading its log: Permission denied; check log_path")
        return super().mark()


def test_a_server_that_cannot_be_asked_any_more(training: Training, host: Host) -> None:
    """Where nothing can be proved from some moment on, the release that worked is live again all the same."""
    training.upload("v1")
    server = Vanishing(host.timestamp, fails={"v1": 9})
    with pytest.raises(Refused, match=r"check log_path; rolled back to \S+-adopted, which is not confirmed either"):
        bring(training, host, server=server)
    assert version_in(host.model) == "v0"


class Interrupted(BaseException):
    """What a task is interrupted by, be it its time limit or somebody who ends it."""


class Slow(Server):
    """A server that is still asked for the new model when the task is interrupted."""

    def ask(self, mark: Any) -> Any:
        """Interrupt who asks for the new model."""
        if version_in(self.timestamp.parent) == "v1":
            raise Interrupted("it took too long")
        return super().ask(mark)


def test_interrupted_between_publication_and_proof(training: Training, host: Host) -> None:
    """A delivery whose time is over before the new model is proved goes back to the one that worked."""
    training.upload("v1")
    server = Slow(host.timestamp)
    with pytest.raises(Interrupted):
        bring(training, host, server=server)
    assert (version_in(host.model), server.loads[-1][0]) == ("v0", "v0")
    assert host.releases.live().confirmed  # type: ignore[union-attr]
    outcome = bring(training, host, server=host.serve())
    assert (version_in(host.model), outcome.record.refused) == ("v1", None)


@pytest.mark.parametrize("mode", ["symlink", "in_place"])
def test_told_to_end_right_behind_the_rename(
    mode: str, training: Training, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is told to end when its release has just become live leaves the one before live, and proved."""
    host = Host(memory_path, publish_mode=mode)
    server = host.serve()
    training.upload("v1")
    bring(training, host, server=server)
    publish = Releases.publish

    def publish_and_be_told(releases: Releases, *arguments: Any, **options: Any) -> Record:
        publish(releases, *arguments, **options)
        monkeypatch.setattr(Releases, "publish", publish)
        raise KeyboardInterrupt

    monkeypatch.setattr(Releases, "publish", publish_and_be_told)
    training.upload("v2")
    with pytest.raises(KeyboardInterrupt):
        bring(training, host, server=server)
    assert (version_in(host.model), server.loads[-1][0]) == ("v1", "v1")
    live = host.releases.live()
    assert live
    assert live.confirmed
    assert [record.refused for record in host.releases.history() if record != live] == ["KeyboardInterrupt"]


def test_killed_between_publication_and_proof(training: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that was published, but not proved to be served, is proved by the next run, without a fetch."""

    class Deadly(Server):
        def ask(self, mark: Any) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    training.upload("v1")
    pid = fork()
    if pid == 0:
        try:
            bring(training, host, server=Deadly(host.timestamp))
        finally:
            os._exit(1)
    assert os.WTERMSIG(status_of(pid)) == signal.SIGKILL
    before = _second(host)
    assert version_in(host.model) == "v1"
    monkeypatch.setattr(fetch, "fetch_unpacked", lambda *_arguments, **_options: pytest.fail("it was fetched"))
    server = host.serve()
    outcome = bring(training, host, server=server)
    assert outcome.record.confirmed
    assert server.loads == [("v1", before + 1)]
    assert not bring(training, host, server=server).changed


def test_a_delivery_killed_at_any_instant(memory_path: Path) -> None:
    """Whenever a delivery is killed, the old model or the new one is live, and the next run delivers the new one."""

    def prepare(folder: Path) -> None:
        Host(folder).start_with("v0")
        Training(folder).upload("v1")

    def change(folder: Path) -> None:
        bring(Training(folder), Host(folder))

    folders = killed_after_each_change(memory_path, prepare, change)
    fetched = 0
    for folder in folders:
        training, host = Training(folder), Host(folder)
        assert version_in(host.model) in ("v0", "v1")
        fetched += bring(training, host).changed
        assert version_in(host.model) == "v1"
        assert not [path for path in host.temporary.rglob("*") if path.is_file()]
        assert len(host.releases.history()) == 2
        assert not [name for name in contents(folder) if name.endswith((".tmp", ".part")) or "removing" in name]
    assert 0 < fetched < len(folders)


# Rolling back


def test_rolling_back(training: Training, host: Host) -> None:
    """The release that was live before is live again, is proved, and the other one is not delivered again."""
    server = host.serve()
    training.upload("v1")
    first = bring(training, host, server=server).record
    training.upload("v2")
    second = bring(training, host, server=server).record
    before = _second(host)
    outcome = roll_back(host.local, None, server, "bad predictions")
    assert (outcome.changed, outcome.previous) == (True, second.release)
    assert (version_in(host.model), server.loads[-1]) == ("v1", ("v1", before + 1))
    assert (outcome.record.release, outcome.record.confirmed is not None) == (first.release, True)
    assert host.releases.find(second.release).withdrawn == "bad predictions"

    state = State(host)
    again = bring(training, host, server=server)
    assert (again.changed, again.record.release) == (False, first.release)
    assert state.is_unchanged()

    forced = bring(training, host, server=server, force=True)
    assert (forced.changed, version_in(host.model)) == (True, "v2")
    training.upload("v3")
    assert bring(training, host, server=server).changed
    assert version_in(host.model) == "v3"


def test_a_forced_delivery_that_is_refused(training: Training, host: Host) -> None:
    """What was given up stays so when it is forced and the server refuses it, until a forced one is proved."""
    for version in ("v1", "v2"):
        training.upload(version)
        bring(training, host)
    roll_back(host.local, None, None, "bad predictions")
    with pytest.raises(ReloadRefused):
        bring(training, host, server=host.serve(silent=frozenset({"v2"})), force=True)
    assert not bring(training, host).changed
    assert version_in(host.model) == "v1"
    record = bring(training, host, force=True).record
    host.releases.remember(record, confirmed=None, withdrawn="bad predictions")  # as a killed task leaves it
    assert bring(training, host, server=host.serve()).record.confirmed
    assert not bring(training, host).changed
    assert version_in(host.model) == "v2"


def test_another_folder_of_the_archive(training: Training, host: Host) -> None:
    """Another folder of the archive, or another archive, is delivered though the donefile is the same."""
    training.drop(tar(file("m/a", b"v1"), file("m/b", b"v1"), file("m/only-v1", b"v1")))
    bring(training, host, unpacked_filename=".")
    assert (host.model / "m" / "a").exists()
    assert bring(training, host, unpacked_filename="m").changed
    assert version_in(host.model) == "v1"
    training.packed.rename(training.packed.with_name("other.tar.gz"))
    training.remote = replace(training.remote, model="other.tar.gz")
    assert bring(training, host, unpacked_filename="m").changed
    assert not bring(training, host, unpacked_filename="m").changed


def test_a_server_that_reloads_in_the_very_instant(
    training: Training, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server says right behind the rename, before anything else is done, counts as the proof that it is."""
    server, publish = host.serve(), Releases.publish

    def publish_and_load(self: Releases, *arguments: Any) -> Record:
        record = publish(self, *arguments)
        server.ask({})
        return record

    monkeypatch.setattr(Releases, "publish", publish_and_load)
    training.upload("v1")
    assert bring(training, host, server=server).record.confirmed
    assert roll_back(host.local, None, server, "why").record.confirmed
    assert [version for version, _ in server.loads] == ["v1", "v0"]


def test_rolling_back_to_a_name(training: Training, host: Host) -> None:
    """Any release that is kept can be made live again by its name, also the one that was given up before."""
    training.upload("v1")
    first = bring(training, host).record
    training.upload("v2")
    second = bring(training, host).record
    adopted = next(record for record in host.releases.history() if record.origin == "adopted")
    roll_back(host.local, adopted.release, None, "all wrong")
    assert version_in(host.model) == "v0"
    assert host.releases.find(first.release).withdrawn is None
    outcome = roll_back(host.local, second.release, None, "not so wrong")
    assert version_in(host.model) == "v2"
    assert outcome.record.withdrawn is None
    again = roll_back(host.local, second.release, None, "again")
    assert (again.changed, again.record.withdrawn) == (False, None)


def test_a_roll_back_without_a_server_proves_nothing(training: Training, host: Host) -> None:
    """What was proved of a release before is no proof that it is served after a roll-back."""
    training.upload("v1")
    bring(training, host, server=host.serve())
    training.upload("v2")
    bring(training, host, server=host.serve())
    assert roll_back(host.local, None, None, "why").to_dict()["confirmed"] is False


def test_nothing_to_roll_back_to(training: Training, memory_path: Path) -> None:
    """Without an earlier release, or with one that is not there, rolling back is refused and changes nothing."""
    host = Host(memory_path)
    with pytest.raises(Refused, match="no earlier release is left on this host; deliver one"):
        roll_back(host.local, None, None, "why")
    training.upload("v1")
    bring(training, host)
    before = _second(host)
    with pytest.raises(Refused, match="no earlier release is left"):
        roll_back(host.local, None, None, "why")
    with pytest.raises(Refused, match=r"looking for the release '\.\./x'"):
        roll_back(host.local, "../x", None, "why")
    assert (version_in(host.model), _second(host)) == ("v1", before)
    assert host.releases.live().withdrawn is None  # type: ignore[union-attr]


def test_a_roll_back_that_the_server_refuses(training: Training, host: Host) -> None:
    """A roll-back that is not served fails, and stays, since somebody wanted it."""
    training.upload("v1")
    bring(training, host)
    with pytest.raises(ReloadRefused, match="does not serve the release"):
        roll_back(host.local, None, host.serve(silent=frozenset({"v0"})), "why")
    assert version_in(host.model) == "v0"


def test_a_roll_back_that_is_tried_again(training: Training, host: Host) -> None:
    """A roll-back that was not proved goes, tried again, to the same release, and not to one further back."""
    for version in ("v1", "v2"):
        training.upload(version)
        bring(training, host)
    with pytest.raises(ReloadRefused, match="does not serve the release"):
        roll_back(host.local, None, host.serve(silent=frozenset({"v1"})), "why")
    again = roll_back(host.local, None, host.serve(), "why")
    assert (again.changed, version_in(host.model)) == (False, "v1")
    assert again.record.confirmed
    assert roll_back(host.local, None, host.serve(), "another reason").changed
    assert version_in(host.model) == "v0"


def test_a_roll_back_that_is_tried_again_after_its_end(training: Training, host: Host) -> None:
    """A roll-back that has ended changes nothing when it is tried again, unless something was delivered meanwhile."""
    for version in ("v1", "v2"):
        training.upload(version)
        bring(training, host)
    assert roll_back(host.local, None, None, "task 7").changed
    again = roll_back(host.local, None, None, "task 7")
    assert (again.changed, version_in(host.model)) == (False, "v1")
    training.upload("v3")
    bring(training, host)
    assert roll_back(host.local, None, None, "task 7").changed
    assert version_in(host.model) == "v1"


@pytest.mark.parametrize("mode", ["symlink", "in_place"])
def test_a_roll_back_that_is_killed_is_tried_again(mode: str, memory_path: Path) -> None:
    """Whenever a roll-back is killed, it comes to its end when it is tried again, and what is given up stays so."""

    def at(folder: Path) -> Host:
        return Host(folder, publish_mode=mode)

    def prepare(folder: Path) -> None:
        for version in ("v0", "v1", "v2"):
            Training(folder).upload(version)
            bring(Training(folder), at(folder))

    def change(folder: Path) -> None:
        roll_back(at(folder).local, None, None, "task 7")

    for folder in killed_after_each_change(memory_path, prepare, change):
        change(folder)
        host = at(folder)
        assert version_in(host.model) == "v1"
        withdrawn = {record.withdrawn: version_in(host.releases.path(record)) for record in host.releases.history()}
        assert withdrawn["task 7"] == "v2"
        assert len(withdrawn) == 2


def test_a_roll_back_that_cannot_be_published(training: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host does not let a roll-back happen, nothing is given up."""
    training.upload("v1")
    bring(training, host)

    def no_space(path: Path, _target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(filesystem, "replace_symlink", no_space)
    with pytest.raises(PublicationFailed, match="No space left on device"):
        roll_back(host.local, None, None, "why")
    assert version_in(host.model) == "v1"
    assert [record.given_up for record in host.releases.history()] == [None, None]


def test_a_roll_back_in_place_that_is_killed(memory_path: Path) -> None:
    """After a roll-back that was killed while it published in place, the next delivery leaves a whole model."""

    def at(folder: Path) -> Host:
        return Host(folder, publish_mode="in_place")

    def prepare(folder: Path) -> None:
        training, host = Training(folder), at(folder)
        host.start_with("v0")
        training.upload("v1")
        bring(training, host)

    folders = killed_after_each_change(
        memory_path, prepare, lambda folder: roll_back(at(folder).local, None, None, "w")
    )
    assert len(folders) > 10
    for folder in folders:
        bring(Training(folder), at(folder))
        assert version_in(at(folder).model) in ("v0", "v1")


# Publishing alone, and faults of the host


def test_publishing_alone(host: Host, memory_path: Path) -> None:
    """A release that is published without asking for a reload keeps the very time of the one before."""
    before = host.timestamp.stat().st_mtime_ns
    with host.releases.delivering():
        record = host.releases.admit(write_model(memory_path / "m", "v1"))
    outcome = publish_only(host.releases, record, host.local)
    assert (version_in(host.model), host.timestamp.stat().st_mtime_ns) == ("v1", before)
    assert outcome.previous == host.releases.previous().release  # type: ignore[union-attr]
    assert outcome.record.confirmed is None


def test_publishing_alone_for_the_first_time(memory_path: Path) -> None:
    """A first release is published with a timestamp file, without which no server starts."""
    host = Host(memory_path)
    with host.releases.delivering():
        record = host.releases.admit(write_model(memory_path / "m", "v1"))
    assert publish_only(host.releases, record, host.local).previous is None
    assert host.timestamp.read_text() == f"{_second(host)}\n"


def test_making_live_what_is_gone(training: Training, host: Host) -> None:
    """A release whose folder is gone cannot be made live, and what was live still is."""
    training.upload("v1")
    record = bring(training, host).record
    training.upload("v2")
    bring(training, host)
    filesystem.remove_tree(host.releases.path(record))
    with pytest.raises(PublicationFailed):
        make_live(host.releases, record, host.local, None)
    assert version_in(host.model) == "v2"


@pytest.mark.parametrize("what", ["a file", "a link"])
def test_what_is_not_ours(what: str, training: Training, memory_path: Path) -> None:
    """A file, or somebody's link, in the model's place is refused before anything is fetched."""
    host = Host(memory_path)
    training.upload("v1")
    if what == "a file":
        host.model.touch()
    else:
        host.model.symlink_to(write_model(memory_path / "elsewhere", "v0"))
    with pytest.raises(Refused, match=f"looking at {host.model}: it is {what}"):
        bring(training, host)
    assert host.releases.history() == []


def test_a_host_without_room(training: Training, host: Host) -> None:
    """Where the folder for what is unfinished cannot be made, nothing has changed."""
    training.upload("v1")
    host.temporary.write_text("in the way")
    with pytest.raises(PublicationFailed, match=f"preparing {host.temporary}: File exists"):
        bring(training, host)
    assert version_in(host.model) == "v0"


def test_rolling_back_where_nothing_can_be_written(
    training: Training, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that is refused is rolled back from even where neither its record nor a timestamp can be written."""
    training.upload("v1")
    bring(training, host)
    before = _second(host)
    server = host.serve(fails={"v2": 2})
    confirm = server.confirm

    def confirm_on_a_full_disk(expected: Expected, mark: Any) -> str:
        if expected.release.endswith("v2"):
            monkeypatch.setattr(filesystem, "replace_file", no_space)
            monkeypatch.setattr(timestamp, "replace_file", no_space)
        return confirm(expected, mark)

    def no_space(path: Path, _content: str, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(server, "confirm", confirm_on_a_full_disk)
    training.upload("v2")
    with pytest.raises(PublicationFailed, match="No space left on device"):
        bring(training, host, server=server)
    assert (version_in(host.model), _second(host)) == ("v1", before)


def test_what_cannot_be_put_back(training: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host does not let the old model be put back, that is said beside the server's own words."""
    replace_symlink = filesystem.replace_symlink

    def once(path: Path, target: str) -> None:
        if target.endswith("-adopted"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        replace_symlink(path, target)

    monkeypatch.setattr(filesystem, "replace_symlink", once)
    training.upload("v1")
    with pytest.raises(PublicationFailed, match=r"second \d+; \S+-v1 is live still, since .*: No space left on device"):
        bring(training, host, server=host.serve(fails={"v1": 9}))
    assert version_in(host.model) == "v1"


def test_releases_that_cannot_be_published_do_not_pile_up(
    training: Training, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads of which none can be published leave no more releases than are kept, and one."""

    def read_only(path: Path, _target: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    training.upload("v1")
    bring(training, host)
    monkeypatch.setattr(filesystem, "replace_symlink", read_only)
    for number in range(2, 8):
        training.upload(f"v{number}")
        with pytest.raises(PublicationFailed, match="Read-only file system"):
            bring(training, host)
        assert len(host.releases.history()) <= host.local.keep_releases + 1
    assert version_in(host.model) == "v1"


# Deliveries at once

DELIVER = """
import sys
from pathlib import Path
from tests.delivery.models import Host, Training
from tests.delivery.test_pipeline import bring
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
outcome = bring(Training(folder), Host(folder))
print(outcome.changed, outcome.record.release, flush=True)
"""


def test_deliveries_at_once(training: Training, host: Host, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that deliver the same model at once one does, and the other one says that nothing changed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    training.upload("v1")
    with Child("-c", DELIVER, memory_path) as one, Child("-c", DELIVER, memory_path) as other:
        assert [child.hear() for child in (one, other)] == ["ready"] * 2
        for child in (one, other):
            child.tell()
        answers = [child.hear().split() for child in (one, other)]
    assert sorted(changed for changed, _ in answers) == ["False", "True"]
    assert len({release for _, release in answers}) == 1
    assert version_in(host.model) == "v1"
    assert len(host.releases.history()) == 2


def test_threads_at_once(training: Training, host: Host) -> None:
    """Of many threads that deliver the same model at once exactly one does."""
    training.upload("v1")
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(bring(training, host))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.changed for outcome in outcomes) == [False] * 4 + [True]
    assert len(host.releases.history()) == 2


@pytest.fixture
def folders(memory_path: Path) -> Training:
    """Give a store with a folder model of version v1, whose files are long past, and no more to upload."""
    training = Training(memory_path, "model")
    training.upload("v1")
    (training.packed / "same").write_bytes(b"same" * CHUNK)
    _announce(training)
    return training


def _announce(training: Training) -> None:
    """Announce what is in the store by a donefile that promises its digest, all of it from an hour ago."""
    for path in (path for path in training.packed.rglob("*") if path.stat().st_mtime_ns > time.time_ns() - AN_HOUR_NS):
        set_time(path, ahead_ns=-AN_HOUR_NS)
    training.donefile.write_text(json.dumps({"sha256": digest_of_folder(training.packed)}))


def _fetched(training: Training, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the files that are fetched from now on."""
    names: list[str] = []
    opened = training.store._open

    def note(path: str, offset: int, expected: FileFacts | None) -> Any:
        if not path.endswith("donefile"):
            names.append(f"{Path(path).name} from {offset}" if offset else Path(path).name)
        return opened(path, offset, expected)

    monkeypatch.setattr(training.store, "_open", note)
    return names


def test_a_folder_model_that_is_nearly_the_same(folders: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what changed of a folder is fetched; the rest is linked to a release, which may be removed then."""
    first = bring(folders, host, unpacked_filename=None)
    (folders.packed / "a").write_text("v2")
    _announce(folders)
    fetched = _fetched(folders, monkeypatch)
    second = bring(folders, host, unpacked_filename=None)
    assert fetched == ["a"]
    old, new = (host.releases.path(outcome.record) for outcome in (first, second))
    assert (new / "same").samefile(old / "same")
    assert (old / "a").read_text() == "v1"
    assert (second.record.files, second.record.total_bytes) == (4, first.record.total_bytes)
    before = contents(host.model)
    for version in ("v3", "v4", "v5"):
        (folders.packed / "a").write_text(version)
        _announce(folders)
        bring(folders, replace_local(host, keep_releases=2), unpacked_filename=None)
    assert fetched == ["a"] * 4
    assert not old.exists()
    assert not new.exists()
    assert contents(host.model).keys() == before.keys()
    assert (host.model / "same").read_bytes() == b"same" * CHUNK
    kept = [record.release for record in host.releases.history()]
    manifests = {path.stem for path in (host.folder / ".model.releases").glob("*.files")}
    assert manifests == set(kept)


def replace_local(host: Host, **changes: Any) -> Host:
    """Give a host with other settings."""
    host.local = replace(host.local, **changes)
    return host


def test_nothing_is_taken_from_earlier_folders_on_trust(
    folders: Training, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a promised digest all of a folder is fetched, since new files may have been given the times of old."""
    bring(folders, host, unpacked_filename=None)
    for path in folders.packed.iterdir():
        status = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    folders.donefile.write_bytes(b"")
    set_time(folders.donefile, ahead_ns=-AN_HOUR_NS)
    fetched = _fetched(folders, monkeypatch)
    bring(folders, host, unpacked_filename=None)
    assert sorted(fetched) == sorted(path.name for path in folders.packed.iterdir())
    assert (host.model / "same").read_bytes() == b"emas" * CHUNK


def test_a_folder_that_is_uploaded_anew_while_it_comes(
    folders: Training, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a promised digest a folder of which a file changes before the last one has come is no model."""
    folders.donefile.write_bytes(b"")
    set_time(folders.donefile, ahead_ns=-AN_HOUR_NS)
    opened = folders.store._open

    def open_while_training_goes_on(path: str, offset: int, expected: FileFacts | None) -> Any:
        if path.endswith("same"):
            (folders.packed / "a").write_text("the next model's")
        return opened(path, offset, expected)

    monkeypatch.setattr(folders.store, "_open", open_while_training_goes_on)
    with pytest.raises(StoreUnreachable, match="a changed while the folder came; training may be uploading"):
        bring(folders, host, unpacked_filename=None)
    assert version_in(host.model) == "v0"
    monkeypatch.undo()
    assert bring(folders, host, unpacked_filename=None).changed
    assert (host.model / "a").read_text() == "the next model's"


def test_force_fetches_all_of_a_folder(folders: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a delivery is forced, nothing is taken from this host."""
    bring(folders, host, unpacked_filename=None)
    fetched = _fetched(folders, monkeypatch)
    bring(folders, host, unpacked_filename=None, force=True)
    assert sorted(fetched) == ["a", "b", "only-v1", "same"]
    assert (host.model / "same").stat().st_nlink == 1


def test_a_store_that_hides_a_change(folders: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file changes and the store says that it did not, the donefile's digest has all of it fetched anew."""
    bring(folders, host, unpacked_filename=None)
    same = folders.packed / "same"
    status = same.stat()
    same.write_bytes(b"else" * CHUNK)
    os.utime(same, ns=(status.st_atime_ns, status.st_mtime_ns))
    _announce(folders)
    fetched = _fetched(folders, monkeypatch)
    bring(folders, host, unpacked_filename=None)
    assert sorted(fetched) == ["a", "b", "only-v1", "same"]
    assert same.read_bytes() == (host.model / "same").read_bytes()


def _breaking_off(training: Training, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store break off behind so many bytes of the file `same`, and not come back."""
    opened = training.store._open

    @contextmanager
    def leak(path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        with opened(path, offset, expected) as found:
            yield Opened(found.facts, io.BytesIO(found.reader.read(after)), offset) if path.endswith("same") else found

    monkeypatch.setattr(training.store, "_open", leak)
    monkeypatch.setattr(training.store, "resume_pauses", ())


def test_a_retry_of_a_folder_model(folders: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a transfer that broke off, the next delivery goes on in the middle of the file, and leaves nothing."""
    with monkeypatch.context() as patch:
        _breaking_off(folders, CHUNK + 5, patch)
        with pytest.raises(StoreUnreachable):
            bring(folders, host, unpacked_filename=None)
    assert len(list(host.temporary.iterdir())) == 1
    fetched = _fetched(folders, monkeypatch)
    bring(folders, host, unpacked_filename=None)
    assert fetched == [f"same from {CHUNK + 5}"]
    assert (host.model / "same").read_bytes() == b"same" * CHUNK
    assert list(host.temporary.iterdir()) == []


def test_what_a_retry_leaves(folders: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a delivery breaks off, one folder is left, and none by one that a retry would not mend."""
    with monkeypatch.context() as patch:
        _breaking_off(folders, CHUNK, patch)
        for _ in range(3):
            with pytest.raises(StoreUnreachable):
                bring(folders, host, unpacked_filename=None)
        assert len(list(host.temporary.iterdir())) == 1
    folders.donefile.write_text(json.dumps({"sha256": "00"}))
    with pytest.raises(Corrupt):
        bring(folders, host, unpacked_filename=None)
    assert list(host.temporary.iterdir()) == []


def test_an_archive_that_breaks_off_leaves_nothing(
    training: Training, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an archive that is unpacked while it comes nothing is kept that could be gone on with."""
    training.upload("v1")

    @contextmanager
    def leak(_path: str, _offset: int, _expected: FileFacts | None) -> Iterator[Opened]:
        yield Opened(FileFacts(size=1000, mtime_ns=1), io.BytesIO(), 0)

    opened = training.store._open
    monkeypatch.setattr(
        training.store, "_open", lambda path, *rest: (opened if path.endswith("donefile") else leak)(path, *rest)
    )
    monkeypatch.setattr(training.store, "resume_pauses", ())
    state = State(host)
    with pytest.raises(StoreUnreachable):
        bring(training, host)
    assert state.is_unchanged()


def test_an_archive_that_is_nearly_the_same(training: Training, host: Host) -> None:
    """Members that are the same as in the live release are linked to it, and not where a delivery is forced."""
    training.drop(tar(file("m/a", b"v1"), file("m/same", b"same" * CHUNK)))
    first = host.releases.path(bring(training, host).record)
    training.drop(tar(file("m/a", b"v2"), file("m/same", b"same" * CHUNK)), b"second")
    second = host.releases.path(bring(training, host).record)
    assert (second / "same").samefile(first / "same")
    assert ((first / "a").read_bytes(), (second / "a").read_bytes()) == (b"v1", b"v2")
    bring(training, host, force=True)
    assert not (host.model / "same").samefile(first / "same")
