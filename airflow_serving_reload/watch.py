"""One look at a donefile, as the sensor and the trigger both take it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_serving_reload.delivery.donefile import Decision, DonefileVersion, decide
from airflow_serving_reload.delivery.stores.base import child

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.stores.base import Store


def look(
    store: Store, remote_path: str, remote_donefile_name: str, last: DonefileVersion | None
) -> tuple[Decision, DonefileVersion | None]:
    """Look at a donefile once, and decide what it means.

    :param last: the version known already.
    :return: the decision, and the version seen.
    :raises DeliveryError: the store could not tell.
    """
    seen = store.donefile(child(remote_path, remote_donefile_name))
    return decide(seen, last), seen
