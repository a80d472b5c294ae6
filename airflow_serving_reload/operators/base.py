"""What every operator here does the same: permanent faults are not retried, and limits come from the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, conf

from airflow_serving_reload.task import FAIL_PERMANENT_FAULTS

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.archive import Limits


class DeliveryOperator(BaseOperator):
    """An operator that raises `DeliveryError` and fails at once where a retry could not help."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"retry_policy": FAIL_PERMANENT_FAULTS, **kwargs})


def unpacking_limits() -> Limits:
    """Give the bounds on archives from Airflow's configuration, section `serving_reload`."""
    from airflow_serving_reload.delivery.archive import Limits

    default = Limits()
    return Limits(
        members=conf.getint("serving_reload", "max_members", fallback=default.members),
        total_bytes=conf.getint("serving_reload", "max_unpacked_bytes", fallback=default.total_bytes),
        ratio=conf.getfloat("serving_reload", "max_unpacked_ratio", fallback=default.ratio),
    )
