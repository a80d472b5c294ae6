"""The sensor that waits until a model server is proved to serve what was published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_serving_reload.delivery.errors import Refused, ReloadRefused
from airflow_serving_reload.delivery.servers.base import Expected, State
from airflow_serving_reload.task import (
    FAIL_PERMANENT_FAULTS,
    donefile_version,
    given,
    read_mapping,
    remember_live,
    with_asset,
)

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

    from airflow_serving_reload.delivery.servers.base import ServerDescription


class ReloadConfirmedSensor(BaseSensorOperator):
    """Wait until a server serves what was published; fail as soon as it says that it could not load it.

    Where it reads the server's log it has to run on the server's host. It is not deferrable; `mode="reschedule"` frees
    its worker between two looks. It only looks: a server that is told over HTTP has to be told before, for example
    by Airflow's `HttpOperator`.

    :param server: the server. (templated)
    :param release: what `PublishModelOperator` returned, also as the text that a template makes of it, or the name of
        the release that it should serve; needs a server whose probe or metadata tell the release, or its version.
        (templated)
    :param since: when it was asked to reload, in seconds since the epoch: what `TouchTimestampOperator` returned; a
        server with a log tells by it. (templated)
    :param model_asset: asset of the live model; once confirmed, its state remembers `donefile`.
    :param donefile: the donefile version that is confirmed then, and whose model's version the server may tell.
        (templated)
    :return: what proves it, in the server's own words.
    """

    template_fields: Sequence[str] = ("server", "release", "since", "donefile")
    ui_color: str = "#fff2cc"

    def __init__(
        self,
        *,
        server: ServerDescription,
        release: str | Mapping[str, Any] | None = None,
        since: float | str | None = None,
        model_asset: Asset | None = None,
        donefile: Mapping[str, Any] | None = None,
        poke_interval: float = 1,
        timeout: float = 600,
        **kwargs: Any,
    ) -> None:
        arguments = with_asset({"retry_policy": FAIL_PERMANENT_FAULTS, **kwargs}, "outlets", model_asset)
        super().__init__(poke_interval=poke_interval, timeout=timeout, **arguments)
        if given(release) is None and given(since) is None:
            raise self._says_nothing("making the task")
        self.server = server
        self.release = release
        self.since = since
        self.model_asset = model_asset
        self.donefile = donefile

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the server once.

        :raises ReloadRefused: it failed to load what was published.
        :raises Refused: templates made nothing of both `release` and `since`, or something else than they should be.
        """
        from airflow_serving_reload.connections import open_server

        published = self._published()
        asked_at = self._asked_at()
        if published is None and asked_at is None:
            raise self._says_nothing("confirming a reload by the task")
        published = published or {"release": None}
        since = asked_at or 0.0
        version = donefile_version(self.donefile)
        announced = version or donefile_version(published.get("donefile"))
        expected = Expected(
            release=published["release"],
            mtime_ns=round(since * 1e9) if since else None,
            version=announced.model_version if announced else None,
        )
        with open_server(self.server) as server:
            look = server.look(expected, server.mark_since(since))
        self.log.info("%s: %s (%s)", server, look.state.value, look.evidence)
        if look.state is State.REFUSED:
            raise ReloadRefused(f"{server} failed to load what was published: {look.evidence}; roll it back")
        if look.state is not State.SERVED:
            return PokeReturnValue(is_done=False)
        if version:
            remember_live(context, self.model_asset, {"donefile": version.to_dict(), "release": expected.release})
        return PokeReturnValue(is_done=True, xcom_value=look.evidence)

    def _published(self) -> Mapping[str, Any] | None:
        """Give what is known of the release, at least its name; None if it is absent."""
        release = given(self.release)
        if release is None:
            return None
        if isinstance(release, str) and not release.lstrip().startswith("{"):
            return {"release": release}
        try:
            published = read_mapping(release)
        except ValueError as error:
            raise self._no_release() from error
        if given(published.get("release")) is None:
            raise self._no_release()
        return published

    def _asked_at(self) -> float | None:
        """Give when the server was asked to reload, in seconds since the epoch; None if that is absent."""
        since = given(self.since)
        if since is None:
            return None
        try:
            seconds = float(since)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not math.isfinite(seconds):
            raise Refused(
                f"confirming a reload by the task {self.task_id}: since is {since!r}, not a number of seconds; "
                "give what TouchTimestampOperator returned"
            )
        return seconds

    def _says_nothing(self, doing: str) -> Refused:
        return Refused(
            f"{doing} {self.task_id}: neither release nor since says what the server should serve; "
            "give what PublishModelOperator or TouchTimestampOperator returned"
        )

    def _no_release(self) -> Refused:
        return Refused(
            f"confirming a reload by the task {self.task_id}: release is {self.release!r}, which names none; "
            "give what PublishModelOperator returned, or the name of a release"
        )
