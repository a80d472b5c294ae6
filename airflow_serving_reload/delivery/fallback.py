"""What a host falls back to where a release was not proved: the one that worked, made live and proved again."""

from __future__ import annotations

import logging
from contextlib import suppress

from airflow_serving_reload.delivery import timestamp
from airflow_serving_reload.delivery.errors import DeliveryError, PublicationFailed, ReloadRefused
from airflow_serving_reload.delivery.proof import Proof, stamp
from airflow_serving_reload.delivery.release import PublishMode, Record, Releases
from airflow_serving_reload.delivery.servers.base import ModelServer

log = logging.getLogger(__name__)


def fall_back(
    before: Record | None, releases: Releases, refused: Record, mode: PublishMode, server: ModelServer | None
) -> str:
    """Make the release that worked live again, and say how that went. Hold `publishing`.

    Where that one was never proved and is refused too, those before it are tried; if all are, it stays the live one.

    :param before: the release that was live before.
    :param refused: the live release, which was not proved.
    :param mode: how a release becomes the live one.
    :param server: asked to confirm; None to trust the rename.
    :raises DeliveryError: the host did not let any of them become live.
    """
    candidates = _candidates(before, releases, refused)
    if not candidates:
        return "there is no earlier release to roll back to"
    refusals: list[tuple[Record, DeliveryError]] = []
    for candidate in candidates:
        record, fault = _go_back_to(candidate, releases, mode, server)
        if type(fault) is not ReloadRefused:
            # it is served, or the fault is not the release's
            break
        refusals.append((record, fault))
    else:
        # a server that serves none of them has said nothing about any
        refusals.clear()
        if len(candidates) > 1:
            record, fault = _go_back_to(candidates[0], releases, mode, server)
    too = "".join(f"{refusal}; " for _, refusal in refusals)
    if fault is not None:
        return f"{too}rolled back to {record.release}, which is not confirmed either: {fault}"
    for one, refusal in refusals:
        with suppress(PublicationFailed):
            releases.remember(one, refused=str(refusal))
    return f"{too}rolled back to {record.release}, which the server serves"


def _candidates(before: Record | None, releases: Releases, refused: Record) -> list[Record]:
    """Give what to go back to, in turn: what was live, and as long as none was ever proved, what was before it."""
    if before is None or before.release == refused.release:
        before = releases.previous()
    if before is None:
        return []
    candidates = [before]
    for record in releases.history():
        if candidates[-1].confirmed:
            break
        if record.published and not record.given_up and record.release not in {before.release, refused.release}:
            candidates.append(record)
    return candidates


def _go_back_to(
    record: Record, releases: Releases, mode: PublishMode, server: ModelServer | None
) -> tuple[Record, DeliveryError | None]:
    """Make an earlier release live again whatever the server says, and give what keeps it from being proved."""
    mtime_ns = _stamped(releases, record)
    try:
        proof = Proof(server, releases, record, mtime_ns)
    except DeliveryError as fault:
        return releases.publish(record, mode, insist=True), fault
    record = releases.publish(record, mode, insist=True)
    try:
        proof.wait()
    except DeliveryError as fault:
        return record, fault
    with suppress(PublicationFailed):
        record = releases.accept(record, proved=server is not None)
    return record, None


def _stamped(releases: Releases, record: Record) -> int:
    """Stamp a release; where the host does not let it, its earlier time will do."""
    try:
        return stamp(releases, record)
    except PublicationFailed as fault:
        earlier_ns = timestamp.read(releases.timestamp_file_of(record))
        if earlier_ns is None:
            raise
        log.warning("%s; rolling back with its earlier time, which is another second as well", fault)
        return earlier_ns
