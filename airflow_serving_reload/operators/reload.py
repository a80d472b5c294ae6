"""The operators for the serving host: deliver a model in one task, and roll it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_serving_reload.operators.base import DeliveryOperator, grouping_stopwatch, unpacking_limits
from airflow_serving_reload.task import (
    donefile_version,
    emit_nothing,
    given,
    is_true,
    remember_live,
    run_of,
    with_asset,
)

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

    from airflow_serving_reload.delivery.release import PublishMode
    from airflow_serving_reload.delivery.servers.base import ServerDescription


class ReloadModelOperator(DeliveryOperator):
    """Deliver the model of the store's donefile, from download to proof, unless it is live already.

    Files of a folder that the store proves to be those of a release on this host are linked to it, not fetched; members
    of an archive that are equal to the files of the live release are linked, not written. A retry of a folder goes on
    with what came; an archive is unpacked while it comes, so that nothing of it is there to go on with.

    :param conn_id: connection to the store; its type decides the transport. (templated)
    :param remote_path: folder in the store. (templated)
    :param remote_model_name: name of the archive, or of the folder, with the model. (templated)
    :param remote_donefile_name: name of the donefile. (templated)
    :param local_path: the server's folder on this host. (templated)
    :param local_model_name: name by which the server reads the model. (templated)
    :param local_timestamp_file: name of the timestamp file in the model. (templated)
    :param local_tmp_path: folder for what is not published yet, relative to `local_path`, on the same file system.
        (templated)
    :param unpacked_filename: folder inside the archive that is the model, `.` for its top; leave it out if the model
        is a folder in the store. (templated)
    :param server: told to reload and asked to confirm it; without it, what is published counts as live. (templated)
    :param model_asset: asset of the live model; its state remembers what is live, its event tells of each change. A
        mapped task has to name it in `.partial(outlets=[...])` as well, where Airflow looks before it is unmapped.
    :param donefile: the donefile version that led here. The store's present one is what is delivered. (templated)
    :param force: fetch and publish even what is live already or was rolled back, and nothing of it is taken from this
        host. (templated)
    :param publish_mode: `symlink`, `in_place`, or `auto` for the first that can serve. (templated)
    :param keep_releases: how many releases stay, never fewer than two.
    :return: `changed`, `release`, `previous_release`, `donefile`, `sha256`, `bytes`, `files`, `seconds` of each stage,
        and `confirmed`.
    :raises DeliveryError: something went wrong; what was live before, if anything was, is live.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "remote_path",
        "remote_model_name",
        "remote_donefile_name",
        "local_path",
        "local_model_name",
        "local_timestamp_file",
        "local_tmp_path",
        "unpacked_filename",
        "server",
        "donefile",
        "force",
        "publish_mode",
    )
    ui_color: str = "#e1d5e7"

    def __init__(
        self,
        *,
        conn_id: str,
        remote_path: str,
        remote_model_name: str,
        remote_donefile_name: str = "donefile",
        local_path: str,
        local_model_name: str,
        local_timestamp_file: str = "fluid_time_file",
        local_tmp_path: str = "_serving_monitor_tmp",
        unpacked_filename: str | None = None,
        server: ServerDescription | None = None,
        model_asset: Asset | None = None,
        donefile: Mapping[str, Any] | None = None,
        force: bool | str = False,
        publish_mode: PublishMode = "auto",
        keep_releases: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**with_asset(kwargs, "outlets", model_asset))
        self.conn_id = conn_id
        self.remote_path = remote_path
        self.remote_model_name = remote_model_name
        self.remote_donefile_name = remote_donefile_name
        self.local_path = local_path
        self.local_model_name = local_model_name
        self.local_timestamp_file = local_timestamp_file
        self.local_tmp_path = local_tmp_path
        self.unpacked_filename = unpacked_filename
        self.server = server
        self.model_asset = model_asset
        self.donefile = donefile
        self.force = force
        self.publish_mode = publish_mode
        self.keep_releases = keep_releases
        self._delivering = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Deliver the model."""
        from airflow_serving_reload.connections import open_server, open_store
        from airflow_serving_reload.delivery import pipeline
        from airflow_serving_reload.delivery.fetch import Remote

        if announced := donefile_version(self.donefile):
            self.log.info("told of the donefile %s", announced)
        with (
            open_store(self.conn_id, self.remote_path) as store,
            open_server(self.server) as server,
            self._interruptible(),
        ):
            outcome = pipeline.deliver(
                Remote(store, self.remote_path, self.remote_model_name, self.remote_donefile_name),
                pipeline.Local(
                    Path(self.local_path),
                    self.local_model_name,
                    self.local_timestamp_file,
                    publish_mode=self.publish_mode,
                    keep_releases=self.keep_releases,
                ),
                unpacked_filename=given(self.unpacked_filename),
                temporary=Path(self.local_path, self.local_tmp_path),
                server=server,
                force=is_true(self.force),
                limits=unpacking_limits(),
                run=run_of(context),
                watch=grouping_stopwatch(),
            )
        remember_live(
            context,
            self.model_asset,
            {
                "donefile": outcome.version.to_dict() if outcome.version else None,
                "release": outcome.record.release,
                "sha256": outcome.record.sha256,
            },
        )
        # a try whose predecessor was ended behind the publication announces what that one has published
        if not outcome.changed and outcome.record.run != run_of(context):
            emit_nothing(self, self.model_asset)
        return outcome.to_dict()

    def on_kill(self) -> None:
        """Interrupt a delivery, which then puts back the release that worked; Airflow alone would not end it so."""
        if self._delivering:
            # only once: what puts it back must not be interrupted in turn
            self._delivering = False
            # which Airflow retries where a worker goes away; where somebody has ended the task it stays as they said
            raise SystemExit(f"the task {self.task_id} was told to end before its model was proved")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._delivering = True
        try:
            yield
        finally:
            self._delivering = False


class RollbackModelOperator(DeliveryOperator):
    """Make an earlier release the live one again, and prove that the server serves it.

    The release that was live is given up: its donefile version is not delivered again unless forced.

    :param local_path: the server's folder on this host. (templated)
    :param local_model_name: name by which the server reads the model. (templated)
    :param local_timestamp_file: name of the timestamp file in the model. (templated)
    :param release: name of the release to return to; the one that was live before if left out. (templated)
    :param server: told to reload and asked to confirm it. (templated)
    :return: what is live now, as `ReloadModelOperator` returns it.
    :raises DeliveryError: there is no such release, or the server does not serve it.
    """

    template_fields: Sequence[str] = ("local_path", "local_model_name", "local_timestamp_file", "release", "server")
    ui_color: str = "#f8cecc"

    def __init__(
        self,
        *,
        local_path: str,
        local_model_name: str,
        local_timestamp_file: str = "fluid_time_file",
        release: str | None = None,
        server: ServerDescription | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.local_path = local_path
        self.local_model_name = local_model_name
        self.local_timestamp_file = local_timestamp_file
        self.release = release
        self.server = server

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll back."""
        from airflow_serving_reload.connections import open_server
        from airflow_serving_reload.delivery.pipeline import Local, roll_back

        why = "rolled back by " + ("/".join(run_of(context).values()) or f"hand at {datetime.now(UTC).isoformat()}")
        local = Local(Path(self.local_path), self.local_model_name, self.local_timestamp_file)
        with open_server(self.server) as server:
            return roll_back(local, given(self.release), server, why, grouping_stopwatch()).to_dict()
