"""The stages of a delivery one at a time, for who wants them as tasks of their own.

What one step learns of a model lies beside what it leaves, in the file `.<name>.origin.json`, so that the last one can
record where the release came from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from airflow_serving_reload.delivery import archive, manifest, pipeline, timestamp, transfer
from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.errors import Corrupt, DeliveryError, Refused
from airflow_serving_reload.delivery.fetch import FETCHES_AT_MOST, changed_too_often, check, settled
from airflow_serving_reload.delivery.filesystem import read_json, remove_tree, replace_json, sync_filesystem
from airflow_serving_reload.delivery.manifest import Manifest, Memory
from airflow_serving_reload.delivery.release import Record, Releases
from airflow_serving_reload.delivery.stores.base import Store, child

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a model came from, as far as its release's record wants to know."""

    donefile: Mapping[str, Any] | None = None
    source: str | None = None
    sha256: str | None = None
    total_bytes: int | None = None
    files: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def download(store: Store, path: str, model: str, folder: Path, *, announced: DonefileVersion | None = None) -> Path:
    """Fetch a model as it is in the store, an archive or a folder.

    After a fault that a retry may mend, what came stays beside it, hidden, and the next one goes on with that as far
    as the store proves that it is the same still.

    :param path: folder in the store.
    :param folder: where to put it on this host, under its own name; an older one there is replaced.
    :param announced: the donefile version that led here; what it promises is checked, and if its donefile changed
        while the model came, the newer model is fetched.
    :return: path of the archive or folder.
    :raises DeliveryError: it could not be fetched whole; an older one there is untouched.
    """
    target = folder / Path(model).name
    arriving = target.with_name(f".{target.name}.arriving")
    source = store.describe(child(path, model))
    with manifest.removing_unless_transient(arriving):
        for _ in range(FETCHES_AT_MOST):
            is_promised = announced is not None and announced.model_sha256 is not None
            came, moved = _bring(store, child(path, model), arriving, look_again=not is_promised)
            if announced and announced.path and store.donefile(announced.path) != announced:
                log.info("the donefile changed while its model was fetched; fetching the newer one")
                announced = settled(store, announced.path)
                continue
            try:
                if announced:
                    check(moved, announced, source)
            except Corrupt as fault:
                if not moved.spared:
                    raise
                log.warning("%s; fetching all of it, since a part was here already", fault)
                manifest.discard(arriving)
                continue
            break
        else:
            raise changed_too_often(source)
    with transfer.saving(target):
        remove_tree(target)
        came.rename(target)
        manifest.discard(arriving)
    _leave(
        target,
        _Origin(
            donefile=announced.to_dict() if announced else None,
            source=source,
            sha256=moved.sha256,
            total_bytes=moved.total_bytes,
            files=moved.files,
        ),
    )
    return target


def _bring(store: Store, source: str, arriving: Path, *, look_again: bool) -> tuple[Path, transfer.Moved]:
    """Fetch an archive or a folder, and give where it is: a file is one of a folder too as long as it arrives."""
    with transfer.saving(arriving):
        memory = Memory(Manifest.go_on(arriving, store.describe(source)))
    if archive.is_archive_name(source) or store.list(source) is None:
        name = source.rpartition("/")[2]
        return arriving / name, transfer.receive_file(store, source, name, memory)
    return arriving, transfer.receive_folder(store, source, memory, look_again=look_again)


def unpack(packed: Path, unpacked_filename: str, limits: archive.Limits = archive.DEFAULT_LIMITS) -> Path:
    """Unpack a downloaded archive beside it, under a hidden name until it is whole.

    :param unpacked_filename: folder inside the archive that is the model; `.` for its top.
    :return: path of that folder.
    :raises DeliveryError: it is no archive, is damaged or holds no such folder, or the host did not let it.
    """
    if not packed.is_file():
        raise Refused(f"unpacking {packed}: there is no such file on this host; download it first, on the same host")
    folder = packed.with_name(f"{packed.name}.unpacked")
    unpacking = packed.with_name(f".{packed.name}.unpacking")
    with transfer.saving(folder), manifest.removing_unless_transient(unpacking):
        remove_tree(unpacking)
        unpacking.mkdir()
        with packed.open("rb") as file:
            contents = archive.unpack(file, unpacking, name=str(packed), limits=limits)
        found = archive.find_folder(unpacking, unpacked_filename, packed.name)
        whole = unpacking.resolve()
        model = whole.with_name(folder.name) / found.relative_to(whole)
        sync_filesystem(unpacking)
        for earlier in (folder, _note_of(model)):
            remove_tree(earlier)
        unpacking.rename(folder)
    _leave(model, replace(_origin(packed), files=contents.files))
    return model


def publish(unpacked: Path, local: pipeline.Local, *, run: Mapping[str, Any] | None = None) -> pipeline.Outcome:
    """Make an unpacked model the live release, without asking for a reload.

    Where there is no such folder since an earlier try of the same run has moved it, what that made of it is published.

    :param unpacked: folder of the model, on the file system of `local.path`; it is moved.
    :param run: who publishes, for the record; by that a try knows those before it.
    :raises DeliveryError: it could not be published; what was live is live.
    """
    releases = local.releases()
    with releases.delivering():
        record = _taken_in(unpacked, releases, dict(run or {}))
        try:
            outcome = pipeline.publish_only(releases, record, local)
        except BaseException:
            # else a retry without a run would find nothing to publish
            with suppress(DeliveryError):
                releases.give_back(record, unpacked)
            raise
        remove_tree(_note_of(unpacked))
        return outcome


def _taken_in(unpacked: Path, releases: Releases, run: Mapping[str, Any]) -> Record:
    if unpacked.is_dir():
        origin = _origin(unpacked)
        version = (origin.donefile or {}).get("content", {}).get("version")
        return releases.admit(unpacked, version=version, run=run, **origin.to_dict())
    for record in releases.history() if run else ():
        if record.run == run and not record.given_up:
            log.info("publishing %s, which an earlier try has taken in", record.release)
            return record
    raise Refused(
        f"publishing {unpacked}: there is no such folder on this host; download and unpack it first, on the same host"
    )


def touch(local: pipeline.Local) -> int:
    """Move the timestamp file of the live model forward, so that the server reloads.

    :return: its new modification time in nanoseconds since the epoch.
    :raises Refused: there is no model.
    """
    releases = local.releases()
    if not releases.model.is_dir():
        raise Refused(f"touching {releases.timestamp_file}: there is no model; publish one first")
    with releases.publishing():
        return timestamp.touch(releases.timestamp_file)


def _note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.origin.json")


def _leave(path: Path, origin: _Origin) -> None:
    """Note where a model came from, and have it survive a power cut before the next step relies on it."""
    with transfer.saving(path):
        remove_tree(_note_of(path))
        replace_json(_note_of(path), origin.to_dict())
        sync_filesystem(path)


def _origin(path: Path) -> _Origin:
    note = _note_of(path)
    return _Origin(**read_json(note)) if note.is_file() else _Origin()
