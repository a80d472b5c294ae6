"""From a donefile in the store to its model on this host: fetched, unpacked and verified in one pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from airflow_serving_reload.delivery import archive, manifest, transfer
from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.errors import Corrupt, DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.filesystem import remove_tree
from airflow_serving_reload.delivery.manifest import Manifest, Memory
from airflow_serving_reload.delivery.stores.base import Store, child
from airflow_serving_reload.delivery.streams import Readable

log = logging.getLogger(__name__)

FETCHES_AT_MOST = 5
"""How often a model is fetched anew because its donefile changed meanwhile, before giving up."""

SETTLES_WITHIN = 300.0
"""Seconds for which a donefile may be too young to be told from the next one, before giving up."""


@dataclass(frozen=True)
class Remote:
    """Where training puts a model.

    :param store: the store.
    :param path: folder in it.
    :param model: name of the archive, or of the folder, with the model.
    :param donefile: name of the donefile.
    """

    store: Store
    path: str
    model: str
    donefile: str

    def describe(self) -> str:
        """Name the model for people."""
        return self.store.describe(child(self.path, self.model))

    def look(self) -> DonefileVersion | None:
        """Look at the donefile once; None if it is absent."""
        return self.store.donefile(child(self.path, self.donefile))

    def settled(self) -> DonefileVersion:
        """Look at the donefile until a further upload could be told from this one.

        :raises NotThereYet: there is none.
        :raises StoreUnreachable: it is replaced all the time.
        """
        return settled(self.store, child(self.path, self.donefile))


def settled(store: Store, path: str) -> DonefileVersion:
    """Look at a donefile until a further upload could be told from this one.

    :param path: of the donefile.
    :raises NotThereYet: there is none.
    :raises StoreUnreachable: it is replaced all the time.
    """
    pause = 0.1
    began: float | None = None
    while True:
        version = store.donefile(path)
        if version is None:
            raise NotThereYet(
                f"looking at {store.describe(path)}: there is no donefile; wait until training has finished a model, "
                "or check remote_path and remote_donefile_name"
            )
        if version.settled:
            return version
        if began is None:
            began = time.monotonic()
            log.info("waiting until %s could be told from the next one: %s", store.describe(path), version)
        if (waited := time.monotonic() - began) >= SETTLES_WITHIN:
            raise StoreUnreachable(
                f"looking at {store.describe(path)}: after {waited:.0f} s it is still too young to be told from the "
                f'next one ({version}); upload less often, or with donefile_format="json"'
            )
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def changed_too_often(what: str) -> StoreUnreachable:
    """Give the fault of a model whose donefile was another one each time behind it."""
    return StoreUnreachable(
        f"fetching {what}: its donefile changed each of {FETCHES_AT_MOST} times before the model was here; "
        "upload less often"
    )


@dataclass(frozen=True, slots=True)
class Here:
    """What there is on this host of the models delivered before.

    :param manifests: of releases that are folders of the same place in the store, the likeliest first.
    :param live: the live release.
    """

    manifests: Sequence[Manifest] = ()
    live: Path | None = None


NOTHING = Here()


def fetch(
    remote: Remote,
    version: DonefileVersion,
    staging: Path,
    unpacked_filename: str | None,
    limits: archive.Limits,
    *,
    here: Here = NOTHING,
) -> tuple[DonefileVersion, transfer.Moved, Path]:
    """Fetch and unpack the model in one pass, until the donefile is the same after it as before.

    Files of a folder are only taken from earlier releases where the donefile promises a digest of all: that a file has
    the time and length of an earlier one proves little, since some tools set times.

    :param staging: folder to do that in; where the model is a folder, with what came before a transfer broke off.
    """
    for _ in range(FETCHES_AT_MOST):
        moved = None
        try:
            moved, model = fetch_unpacked(
                remote.store,
                remote.path,
                remote.model,
                staging / "model",
                unpacked_filename=unpacked_filename,
                limits=limits,
                here=here if version.model_sha256 else replace(here, manifests=()),
                is_promised=version.model_sha256 is not None,
            )
            check(moved, version, remote.describe())
        except (Corrupt, NotThereYet, Refused, StoreUnreachable) as fault:
            if _look_behind(remote, fault) == version:
                if not (isinstance(fault, Corrupt) and moved and moved.spared):
                    raise
                log.warning("%s; fetching all of it, since a part was here already", fault)
                manifest.discard(staging / "model")
                here = NOTHING
                continue
        else:
            if remote.look() == version:
                return version, moved, model
        log.info("the donefile changed while its model was fetched; fetching the newer one")
        version = remote.settled()
    raise changed_too_often(remote.describe())


def _look_behind(remote: Remote, fault: DeliveryError) -> DonefileVersion | None:
    """Look at the donefile behind a fault, which tells more than that the store is still gone."""
    try:
        return remote.look()
    except StoreUnreachable:
        if isinstance(fault, StoreUnreachable):
            raise fault from fault.__cause__
        raise


def fetch_unpacked(
    store: Store,
    path: str,
    name: str,
    folder: Path,
    *,
    unpacked_filename: str | None,
    limits: archive.Limits,
    here: Here = NOTHING,
    is_promised: bool = False,
) -> tuple[transfer.Moved, Path]:
    """Fetch a model, unpacking it while it comes.

    :param folder: where to; what is there is gone on with if the model is a folder, and removed if it is an archive.
    :param here: what need not come, or be written, again.
    :param is_promised: whether the digest of all of it is known, by which a mixture of two uploads would be noticed.
    :return: what came, which of an archive are its packed bytes and its unpacked files; and the model.
    """
    source = child(path, name)
    if unpacked_filename is None:
        with transfer.saving(folder):
            arriving = Manifest.go_on(folder, store.describe(source))
        moved = transfer.receive_folder(store, source, Memory(arriving, here.manifests), look_again=not is_promised)
        log.info("%d of %d bytes were here already", moved.spared, moved.total_bytes)
        return moved, folder
    with transfer.saving(folder):
        remove_tree(folder)
        folder.mkdir()
    unchanged = archive.Unchanged(here.live, unpacked_filename) if here.live else None

    def unpack(packed: Readable) -> archive.Contents:
        return archive.unpack(packed, folder, name=store.describe(source), limits=limits, unchanged=unchanged)

    moved, contents = transfer.receive(store, source, unpack)
    log.info("unpacked %d files, %d bytes, out of %d", contents.files, contents.total_bytes, moved.total_bytes)
    if unchanged:
        log.info("%d of these files, %d bytes, are those of the live release", unchanged.files, unchanged.total_bytes)
    return replace(moved, files=contents.files), archive.find_folder(folder, unpacked_filename, name)


def check(moved: transfer.Moved, version: DonefileVersion, what: str) -> None:
    """Compare what came with what the donefile promised.

    :raises Corrupt: it is something else.
    """
    for name, promised, found in (
        ("length", version.model_size, moved.total_bytes),
        ("sha256", version.model_sha256, moved.sha256),
    ):
        if promised is not None and promised != found:
            raise Corrupt(
                f"verifying {what}: its {name} is {found}, but the donefile says {promised}; "
                "upload the model again, and only then its donefile"
            )
