"""What every operator here does the same: which faults it retries, its limits, how its log is grouped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, conf

from airflow_serving_reload.task import FAIL_PERMANENT_FAULTS

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.archive import Limits
    from airflow_serving_reload.delivery.stopwatch import Stopwatch

log = logging.getLogger(__name__)


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


def grouping_stopwatch() -> Stopwatch:
    """Give what times the stages, and makes each a group of the task's log, as Airflow's page folds them."""
    from airflow_serving_reload.delivery.stopwatch import Stopwatch

    def ended(stage: str, seconds: float) -> None:
        log.info("::endgroup::")
        log.info("%s: %.2f s", stage, seconds)

    return Stopwatch(began=lambda stage: log.info("::group::%s", stage.capitalize()), ended=ended)
