"""The steps of a delivery as operators of their own; all of them have to run on the serving host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_serving_reload.operators.base import DeliveryOperator, unpacking_limits
from airflow_serving_reload.task import donefile_version, remember_live, run_of, with_asset

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

    from airflow_serving_reload.delivery.release import PublishMode


class DownloadModelOperator(DeliveryOperator):
    """Fetch a model as it is in the store. A retry goes on behind the last byte that came, if it is still the same.

    :param conn_id: connection to the store. (templated)
    :param remote_path: folder in the store. (templated)
    :param remote_model_name: name of the archive, or of the folder, with the model. (templated)
    :param local_path: the server's folder on this host. (templated)
    :param local_tmp_path: folder for what is not published yet, relative to `local_path`, on the same file system;
        models whose archives have the same name need a folder each, since theirs would be replaced by one another's.
        (templated)
    :param donefile: what `DonefileSensor` returned; length and digest that it promises are checked. (templated)
    :return: path of what was fetched.
    :raises DeliveryError: it could not be fetched whole.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "remote_path",
        "remote_model_name",
        "local_path",
        "local_tmp_path",
        "donefile",
    )
    ui_color: str = "#dae8fc"

    def __init__(
        self,
        *,
        conn_id: str,
        remote_path: str,
        remote_model_name: str,
        local_path: str,
        local_tmp_path: str = "_serving_monitor_tmp",
        donefile: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.remote_path = remote_path
        self.remote_model_name = remote_model_name
        self.local_path = local_path
        self.local_tmp_path = local_tmp_path
        self.donefile = donefile

    def execute(self, context: Context) -> str:
        """Fetch the model."""
        from airflow_serving_reload.connections import open_store
        from airflow_serving_reload.delivery import steps

        with open_store(self.conn_id, self.remote_path) as store:
            fetched = steps.download(
                store,
                self.remote_path,
                self.remote_model_name,
                Path(self.local_path, self.local_tmp_path),
                announced=donefile_version(self.donefile),
            )
        return str(fetched)


class UnpackModelOperator(DeliveryOperator):
    """Unpack a downloaded archive beside it.

    :param packed_path: what `DownloadModelOperator` returned. (templated)
    :param unpacked_filename: folder inside the archive that is the model; `.` for its top. (templated)
    :return: path of the unpacked model.
    :raises DeliveryError: it is damaged, unsafe, or has no such folder.
    """

    template_fields: Sequence[str] = ("packed_path", "unpacked_filename")
    ui_color: str = "#dae8fc"

    def __init__(self, *, packed_path: str, unpacked_filename: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.packed_path = packed_path
        self.unpacked_filename = unpacked_filename

    def execute(self, context: Context) -> str:
        """Unpack the archive."""
        from airflow_serving_reload.delivery import steps

        return str(steps.unpack(Path(self.packed_path), self.unpacked_filename, unpacking_limits()))


class PublishModelOperator(DeliveryOperator):
    """Make an unpacked model the live release; by itself this does not make the server reload.

    :param unpacked_path: what `UnpackModelOperator` returned; the folder is moved. (templated)
    :param local_path: the server's folder on this host. (templated)
    :param local_model_name: name by which the server reads the model. (templated)
    :param local_timestamp_file: name of the timestamp file in the model; it keeps its time. (templated)
    :param publish_mode: `symlink`, `in_place`, or `auto` for the first that can serve. (templated)
    :param keep_releases: how many releases stay, never fewer than two.
    :return: `release` and `previous_release`, with what is known of the release.
    :raises DeliveryError: it could not be published; what was live is live.
    """

    template_fields: Sequence[str] = (
        "unpacked_path",
        "local_path",
        "local_model_name",
        "local_timestamp_file",
        "publish_mode",
    )
    ui_color: str = "#ffe6cc"

    def __init__(
        self,
        *,
        unpacked_path: str,
        local_path: str,
        local_model_name: str,
        local_timestamp_file: str = "fluid_time_file",
        publish_mode: PublishMode = "auto",
        keep_releases: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.unpacked_path = unpacked_path
        self.local_path = local_path
        self.local_model_name = local_model_name
        self.local_timestamp_file = local_timestamp_file
        self.publish_mode = publish_mode
        self.keep_releases = keep_releases

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish the model."""
        from airflow_serving_reload.delivery import steps
        from airflow_serving_reload.delivery.pipeline import Local

        local = Local(
            Path(self.local_path),
            self.local_model_name,
            self.local_timestamp_file,
            publish_mode=self.publish_mode,
            keep_releases=self.keep_releases,
        )
        return steps.publish(Path(self.unpacked_path), local, run=run_of(context)).to_dict()


class TouchTimestampOperator(DeliveryOperator):
    """Move the live model's timestamp file forward, so that the server reloads.

    :param local_path: the server's folder on this host. (templated)
    :param local_model_name: name by which the server reads the model. (templated)
    :param local_timestamp_file: name of the timestamp file in the model. (templated)
    :param model_asset: asset of the live model; its state remembers `donefile`, and its event tells of it. Where
        the reload is confirmed afterwards, give it to `ReloadConfirmedSensor` instead.
    :param donefile: the donefile version that is live now. (templated)
    :return: the new modification time, seconds since the epoch.
    :raises DeliveryError: there is no model, or the host did not let it.
    """

    template_fields: Sequence[str] = ("local_path", "local_model_name", "local_timestamp_file", "donefile")
    ui_color: str = "#ffe6cc"

    def __init__(
        self,
        *,
        local_path: str,
        local_model_name: str,
        local_timestamp_file: str = "fluid_time_file",
        model_asset: Asset | None = None,
        donefile: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**with_asset(kwargs, "outlets", model_asset))
        self.local_path = local_path
        self.local_model_name = local_model_name
        self.local_timestamp_file = local_timestamp_file
        self.model_asset = model_asset
        self.donefile = donefile

    def execute(self, context: Context) -> float:
        """Touch the file."""
        from airflow_serving_reload.delivery import steps
        from airflow_serving_reload.delivery.pipeline import Local

        version = donefile_version(self.donefile)
        mtime_ns = steps.touch(Local(Path(self.local_path), self.local_model_name, self.local_timestamp_file))
        if version:
            remember_live(context, self.model_asset, {"donefile": version.to_dict()})
        return mtime_ns // 1000 / 1e6
