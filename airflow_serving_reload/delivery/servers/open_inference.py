"""Servers that are told over HTTP to load a model, by the Open Inference Protocol's repository extension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airflow_serving_reload.delivery.errors import Refused


@dataclass
class OpenInferenceServer:
    """A server that speaks the Open Inference Protocol; not available yet.

    :param http_conn_id: Airflow connection of type `http` that leads to it.
    :param model_name: name of the model there.
    :raises Refused: always, until this kind of server can be confirmed.
    """

    http_conn_id: str
    model_name: str

    template_fields: ClassVar[tuple[str, ...]] = ("http_conn_id", "model_name")

    def __post_init__(self) -> None:
        """Refuse, rather than pretend to confirm."""
        raise Refused(
            f"describing the server of {self.model_name}: OpenInferenceServer is not available in this release; "
            "use PaddleServer, or no server"
        )
