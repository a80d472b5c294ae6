"""The stages one at a time: what each leaves is whole, and what the last one records is what one task would."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery import archive, pipeline, steps
from airflow_serving_reload.delivery.errors import Corrupt, PublicationFailed, Refused
from airflow_serving_reload.delivery.release import Record

from .models import Host, Training, contents, version_in


@pytest.fixture
def training(memory_path: Path) -> Training:
    """Give a store with a model that training has uploaded."""
    training = Training(memory_path)
    training.upload("v1")
    return training


@pytest.fixture
def host(memory_path: Path) -> Host:
    """Give a host without a model."""
    return Host(memory_path)


def download(training: Training, host: Host) -> Path:
    """Download what the store has."""
    remote = training.remote
    folder = host.folder / "downloaded"
    folder.mkdir(exist_ok=True)
    return steps.download(remote.store, remote.path, remote.model, folder, announced=remote.look())


def names_beside(packed: Path) -> set[str]:
    """Tell what lies beside an archive but its note."""
    return {path.name for path in packed.parent.iterdir()} - {packed.name, f".{packed.name}.origin.json"}


def facts(record: Record) -> tuple[Any, ...]:
    """Give what is recorded of where a model came from, and how much it was."""
    return record.source, record.sha256, record.total_bytes, record.files


@pytest.mark.parametrize("unpacked_filename", ["m", "."])
def test_the_record(unpacked_filename: str, training: Training, host: Host) -> None:
    """The record of a release that came by the steps is that of the same release by one task, its files included."""
    for _ in range(2):
        unpacked = steps.unpack(download(training, host), unpacked_filename)
    by_steps = steps.publish(unpacked, host.local).record
    assert version_in(host.model / ("m" if unpacked_filename == "." else "")) == "v1"
    by_task = pipeline.deliver(
        training.remote, host.local, unpacked_filename=unpacked_filename, temporary=host.temporary, force=True
    ).record
    assert facts(by_steps) == facts(by_task)
    assert by_steps.files == 3


def test_an_archive_of_somebody_else(training: Training, host: Host) -> None:
    """An archive of which nobody noted where it came from is unpacked and published all the same."""
    record = steps.publish(steps.unpack(training.packed, "m"), host.local).record
    assert facts(record) == (None, None, None, 3)


@pytest.mark.parametrize("unpacked_filename", ["m", "."])
def test_unpacking_that_is_killed(
    unpacked_filename: str, training: Training, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of unpacking that does not come to its end nothing is where it is published from, and the next try mends it."""
    packed = download(training, host)
    place = packed.with_name(f"{packed.name}.unpacked")

    unpack = archive.unpack

    def unpack_and_die(*arguments: Any, **options: Any) -> archive.Contents:
        unpack(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive, "unpack", unpack_and_die)
        with pytest.raises(KeyboardInterrupt):
            steps.unpack(packed, unpacked_filename)
    assert not place.exists()
    with pytest.raises(Refused, match="there is no such folder"):
        steps.publish(place / unpacked_filename, host.local)
    assert steps.unpack(packed, unpacked_filename) == place / unpacked_filename
    assert version_in(place / "m") == "v1"
    note = {f".{place.name}.origin.json"} if unpacked_filename == "." else set()
    assert names_beside(packed) == {place.name, *note}


def test_unpacking_what_is_damaged(training: Training, host: Host) -> None:
    """An archive that is damaged, or does not hold the model, leaves nothing, and an older model beside it as it is."""
    packed = download(training, host)
    with pytest.raises(Refused, match="at its top there is 'm'"):
        steps.unpack(packed, "elsewhere")
    assert names_beside(packed) == set()
    model = steps.unpack(packed, "m")
    before = contents(model.parent)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(Corrupt):
        steps.unpack(packed, "m")
    assert (names_beside(packed), contents(model.parent)) == ({model.parent.name}, before)


def test_a_host_that_cannot_unpack(training: Training, host: Host) -> None:
    """A host that cannot make the folder to unpack to is told as such, and not as a fault of the program."""
    packed = download(training, host)
    with pytest.raises(PublicationFailed, match=r"saving .*: File name too long; check space and permissions"):
        steps.unpack(packed.rename(packed.with_name("x" * 250)), "m")


def test_a_host_that_cannot_replace(training: Training, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host where an earlier download cannot be replaced is told as such, and keeps it."""
    before = download(training, host).read_bytes()

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(steps, "remove_tree", refuse)
    with pytest.raises(PublicationFailed, match=r"saving .*/model\.tar\.gz: Operation not permitted; check space and"):
        download(training, host)
    assert (host.folder / "downloaded" / "model.tar.gz").read_bytes() == before
