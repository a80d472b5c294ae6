"""The operator that training ends with: the model, and only then its donefile, into the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_serving_reload.operators.base import DeliveryOperator
from airflow_serving_reload.task import given

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_serving_reload.delivery.upload import DonefileFormat


class UploadModelOperator(DeliveryOperator):
    """Upload a model and then its donefile.

    :param conn_id: connection to the store; its type decides the transport. (templated)
    :param local_model_path: archive or folder on the worker's host; a folder is packed on its way if the remote name
        ends like an archive's (`.tar`, `.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz`, `.tar.zst`, `.zip`), else uploaded
        file by file. (templated)
    :param remote_path: folder in the store. (templated)
    :param remote_model_name: name of the model there. (templated)
    :param remote_donefile_name: name of the donefile there. (templated)
    :param donefile_format: `json`, which carries version, digest and size, or `empty`. (templated)
    :param version: what training calls this model; the time of the upload if left out. (templated)
    :return: `model`, `bytes`, `sha256`, `files`, and `donefile`, the version of the donefile as it is in the store.
    :raises DeliveryError: it could not be uploaded; without the donefile nobody takes the model.
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "local_model_path",
        "remote_path",
        "remote_model_name",
        "remote_donefile_name",
        "donefile_format",
        "version",
    )
    ui_color: str = "#d5e8d4"

    def __init__(
        self,
        *,
        conn_id: str,
        local_model_path: str,
        remote_path: str,
        remote_model_name: str,
        remote_donefile_name: str = "donefile",
        donefile_format: DonefileFormat = "json",
        version: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.local_model_path = local_model_path
        self.remote_path = remote_path
        self.remote_model_name = remote_model_name
        self.remote_donefile_name = remote_donefile_name
        self.donefile_format = donefile_format
        self.version = version

    def execute(self, context: Context) -> dict[str, Any]:
        """Upload the model, then the donefile."""
        from airflow_serving_reload.connections import open_store
        from airflow_serving_reload.delivery.upload import upload

        with open_store(self.conn_id, self.remote_path) as store:
            return upload(
                store,
                self.remote_path,
                Path(self.local_model_path),
                model=self.remote_model_name,
                donefile=self.remote_donefile_name,
                donefile_format=self.donefile_format,
                version=given(self.version),
            ).to_dict()
