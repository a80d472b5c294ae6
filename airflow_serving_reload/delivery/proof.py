"""The proof that a server serves a release: begun right before that release is live, waited for behind it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from airflow_serving_reload.delivery import timestamp
from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.errors import ReloadRefused, ReloadUnanswered
from airflow_serving_reload.delivery.release import Record, Releases
from airflow_serving_reload.delivery.servers.base import Expected, Mark, ModelServer

log = logging.getLogger(__name__)


def stamp(releases: Releases, record: Record) -> int:
    """Give a release, before it is live, a timestamp file that makes the server reload once it is.

    So publishing and touching are one rename.

    :return: its modification time in nanoseconds since the epoch.
    :raises PublicationFailed: the host did not let it.
    """
    mtime_ns = timestamp.next_after(timestamp.read(releases.timestamp_file))
    timestamp.write(releases.timestamp_file_of(record), mtime_ns)
    return mtime_ns


@dataclass
class Proof:
    """What will be proved; it notes where the server stands, which may have loaded the release an instant later.

    :param server: None to trust the rename.
    :param releases: of the model.
    :param record: the release that is to be served.
    :param mtime_ns: modification time of its timestamp file, nanoseconds since the epoch.
    :raises DeliveryError: the server does not tell where it stands.
    """

    server: ModelServer | None
    releases: Releases
    record: Record
    mtime_ns: int
    _mark: Mark = field(init=False)

    def __post_init__(self) -> None:
        """Note where the server stands."""
        self._mark = self.server.mark() if self.server else {}

    @classmethod
    def begun(cls, server: ModelServer | None, releases: Releases, record: Record) -> Proof:
        """Stamp a release that is to be published next, and begin its proof."""
        return cls(server, releases, record, stamp(releases, record))

    def wait(self) -> None:
        """Ask for the reload and wait for the proof; once more with a new touch, since no server tries twice itself.

        :raises ReloadRefused: the server does not serve the release.
        :raises DeliveryError: it could not be proved that the server does.
        """
        if self.server is None:
            return
        try:
            evidence = self._ask(self.server)
        except ReloadUnanswered:
            # told again, it would load it once more behind what it may still be at
            raise
        except ReloadRefused as refusal:
            log.warning("%s; touching %s once more", refusal, self.releases.timestamp_file)
            self._mark = self.server.mark()
            self.mtime_ns = timestamp.touch(self.releases.timestamp_file)
            evidence = self._ask(self.server)
        log.info("confirmed %s: %s", self.record.release, evidence)

    def _ask(self, server: ModelServer) -> str:
        donefile = self.record.donefile
        version = DonefileVersion.from_dict(donefile).model_version if donefile else None
        return server.confirm(Expected(self.record.release, self.mtime_ns, version), server.ask(self._mark))
