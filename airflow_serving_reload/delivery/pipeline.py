"""The verb: deliver a model, from its donefile in the store to the proof that the server serves it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_serving_reload.delivery import archive, manifest, timestamp
from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.errors import DeliveryError, PublicationFailed, Refused
from airflow_serving_reload.delivery.fallback import fall_back
from airflow_serving_reload.delivery.fetch import NOTHING, Here, Remote, fetch
from airflow_serving_reload.delivery.proof import Proof
from airflow_serving_reload.delivery.release import PublishMode, Record, Releases
from airflow_serving_reload.delivery.servers.base import ModelServer
from airflow_serving_reload.delivery.stopwatch import Stopwatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Local:
    """Where a server reads a model on this host.

    :param path: folder that the names below are relative to.
    :param model: name of the model.
    :param timestamp_file: name of the timestamp file in the model.
    :param publish_mode: how a release becomes the live one.
    :param keep_releases: how many releases stay.
    """

    path: Path
    model: str
    timestamp_file: str = "fluid_time_file"
    publish_mode: PublishMode = "auto"
    keep_releases: int = 3

    def releases(self) -> Releases:
        """Give the releases of the model."""
        return Releases(self.path, self.model, self.timestamp_file)


@dataclass(frozen=True)
class Outcome:
    """What a delivery, or a roll-back, came to.

    :param changed: whether another release is live now.
    :param record: the live release.
    :param previous: name of the release that was live before.
    :param seconds: how long each stage took.
    :param version: the donefile version that was dealt with: delivered, or found to need nothing.
    """

    changed: bool
    record: Record
    previous: str | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    version: DonefileVersion | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the outcome as a dict of plain values."""
        return {
            "changed": self.changed,
            "release": self.record.release,
            "previous_release": self.previous,
            "donefile": self.record.donefile,
            "sha256": self.record.sha256,
            "bytes": self.record.total_bytes,
            "files": self.record.files,
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "confirmed": self.record.confirmed is not None,
        }


def deliver(
    remote: Remote,
    local: Local,
    *,
    unpacked_filename: str | None = None,
    temporary: Path,
    server: ModelServer | None = None,
    force: bool = False,
    limits: archive.Limits = archive.DEFAULT_LIMITS,
    run: Mapping[str, Any] | None = None,
    watch: Stopwatch | None = None,
) -> Outcome:
    """Make the model of the store's donefile the live one, unless it is.

    :param unpacked_filename: folder inside the archive that is the model; None if the model is a folder in the store.
    :param temporary: folder for unfinished releases, on the file system of `local.path`.
    :param server: asked to confirm; None to trust the rename.
    :param force: fetch and publish even what is live or was given up, and all of it whatever is here.
    :param limits: bounds on what an archive may unpack to.
    :param run: who delivers, for the record.
    :param watch: times the stages; None for one of its own.
    :raises DeliveryError: something went wrong; what was live before, if anything was, is live.
    """
    watch = watch or Stopwatch()
    releases = local.releases()
    with releases.delivering():
        with watch.stage("look"):
            version = remote.settled()
            with releases.publishing():  # mends first what a killed publication left
                live = releases.live()
                known = None if force else _known(releases, remote, version, unpacked_filename)
                log.debug("the donefile: %s; live: %s; of that donefile: %s", version, live, known)
                if known is None:  # where no release can be published, those that never were would pile up
                    releases.prune(local.keep_releases)
        if live and known and _needs_nothing(live, known, server):
            return Outcome(False, live, live.release, watch.seconds, version)
        if known is None:
            is_folder = unpacked_filename is None
            here = NOTHING if force else _here(releases, remote, is_folder=is_folder)
            with releases.staging(temporary, going_on=is_folder and not force) as staging:
                with watch.stage("fetch"):
                    version, moved, model = fetch(remote, version, staging, unpacked_filename, limits, here=here)
                with watch.stage("stage"):
                    earlier = _known(releases, remote, version, unpacked_filename)
                    known = releases.admit(
                        model,
                        manifest=manifest.file_of(model) if is_folder else None,
                        version=version.content.get("version"),
                        donefile=version.to_dict(),
                        source=remote.describe(),
                        unpacked_filename=unpacked_filename,
                        sha256=moved.sha256,
                        total_bytes=moved.total_bytes,
                        files=moved.files,
                        run=dict(run or {}),
                        withdrawn=earlier and earlier.withdrawn,  # until it is proved after all
                    )
        return replace(make_live(releases, known, local, server, watch), version=version)


def _known(
    releases: Releases, remote: Remote, version: DonefileVersion, unpacked_filename: str | None
) -> Record | None:
    """Find the complete release that this donefile version has led to before; None if it is new here."""
    for record in releases.history():
        if (
            record.donefile is not None
            and DonefileVersion.from_dict(record.donefile) == version
            and record.source in (None, remote.describe())
            and record.unpacked_filename in (None, unpacked_filename)
        ):
            return record
    return None


def _here(releases: Releases, remote: Remote, *, is_folder: bool) -> Here:
    """Tell what is on this host that the model may still have: only where that would be looked for."""
    live, source = releases.live(), remote.describe()
    if is_folder:
        records = sorted(releases.history(), key=lambda record: record != live)
        return Here(manifests=[manifest.Manifest.read(releases.path(record), source) for record in records])
    return Here(live=releases.path(live) if live else None)


def _needs_nothing(live: Record, known: Record, server: ModelServer | None) -> bool:
    if known.withdrawn and known.release != live.release:
        log.warning(
            "the release %s of this donefile was given up (%s) and is not delivered again unless forced",
            known.release,
            known.withdrawn,
        )
        return True
    return known.release == live.release and (server is None or live.confirmed is not None)


def make_live(
    releases: Releases, record: Record, local: Local, server: ModelServer | None, watch: Stopwatch | None = None
) -> Outcome:
    """Make a complete release the live one, ask for the reload, and prove it; else roll back.

    :raises ReloadRefused: the server does not serve it; the release that worked is live again.
    :raises PublicationFailed: the host did not let it become live, or did not let what was live before, as it says.
    :raises DeliveryError: it could not be proved that the server does; the release that worked is live again.
    """
    watch = watch or Stopwatch()
    with releases.publishing():
        before, was_live, published = releases.live(), _is_live(releases, record), False
        try:
            with watch.stage("publish"):
                proof = Proof.begun(server, releases, record)
                record = releases.publish(record, local.publish_mode)
                published = True
            with watch.stage("confirm"):
                proof.wait()
        except BaseException as fault:
            # who is told to end right behind the rename has published it all the same
            if not published and _is_live(releases, record) == was_live:
                raise
            # a task's time limit and its termination are no faults of the delivery, but leave as little proved
            why = str(fault) or type(fault).__name__
            with suppress(PublicationFailed):  # to roll back matters more
                releases.remember(record, refused=why)
            try:
                with watch.stage("roll back"):
                    outcome = f"{why}; {fall_back(before, releases, record, local.publish_mode, server)}"
            except DeliveryError as stuck:
                raise PublicationFailed(
                    f"{why}; {record.release} is live still, since what was live before could not be put back: {stuck}"
                ) from fault
            finally:
                releases.prune(local.keep_releases)
            if isinstance(fault, DeliveryError):
                raise type(fault)(outcome) from fault
            log.warning("%s", outcome)
            raise
        before = before or releases.previous()
        releases.prune(local.keep_releases)
        record = releases.accept(record, proved=server is not None)
    return Outcome(True, record, before.release if before else None, watch.seconds)


def _is_live(releases: Releases, record: Record) -> bool:
    live = releases.live()
    return live is not None and live.release == record.release


def publish_only(releases: Releases, record: Record, local: Local) -> Outcome:
    """Make a complete release the live one without asking for a reload: the timestamp file keeps its time."""
    with releases.publishing():
        before = releases.live()
        mtime_ns = timestamp.read(releases.timestamp_file) or timestamp.next_after(None)
        timestamp.write(releases.timestamp_file_of(record), mtime_ns)
        record = releases.publish(record, local.publish_mode)
        before = before or releases.previous()
        releases.prune(local.keep_releases)
    return Outcome(True, record, before.release if before else None)


def roll_back(
    local: Local, to: str | None, server: ModelServer | None, why: str, watch: Stopwatch | None = None
) -> Outcome:
    """Make an earlier release the live one again, and prove that the server serves it.

    The release that was live is given up: its donefile version is not delivered again unless forced.

    :param to: name of the release; None for the one that was live before.
    :param why: remembered with the release that is given up; without `to`, the same words again are the same roll-back
        tried again, which goes no further back.
    :param watch: times the stages; None for one of its own.
    :raises Refused: there is no such release.
    :raises ReloadRefused: the server does not serve it; it stays the live one.
    """
    watch = watch or Stopwatch()
    releases = local.releases()
    with releases.publishing():
        given_up = releases.live()
        record = releases.find(to) if to else _earlier(releases, server, why)
        if record is None:
            raise Refused(f"rolling back {releases.model}: no earlier release is left on this host; deliver one")
        changed = given_up is None or given_up.release != record.release
        with watch.stage("publish"):
            proof = Proof.begun(server, releases, record)
            with _giving_up(given_up if changed else None, releases, record, why):
                record = releases.publish(releases.remember(record, withdrawn=None), local.publish_mode)
        with watch.stage("confirm"):
            proof.wait()
        record = releases.accept(record, proved=server is not None)
    return Outcome(changed, record, given_up.release if given_up else None, watch.seconds)


@contextmanager
def _giving_up(given_up: Record | None, releases: Releases, instead: Record, why: str) -> Iterator[None]:
    """Have a release given up before another one is live, so that nobody who is killed in between leaves it wanted."""
    if given_up is None:
        yield
        return
    releases.remember(given_up, withdrawn=why)
    try:
        yield
    except BaseException:
        if not _is_live(releases, instead):
            with suppress(PublicationFailed):
                releases.remember(given_up)
        raise


def _earlier(releases: Releases, server: ModelServer | None, why: str) -> Record | None:
    """Give the release before, or the live one where it is what this roll-back, or one left unproved, went back to."""
    live = releases.live()
    given_up = next((record for record in releases.history() if record != live), None)
    if live and given_up and given_up.withdrawn:
        unproved = server is not None and not live.confirmed
        if unproved or given_up.withdrawn == why:
            return live
    return releases.previous()
