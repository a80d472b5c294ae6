"""The sensor that waits until the donefile is another one than the one delivered last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf

from airflow_serving_reload.delivery.donefile import Decision
from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable
from airflow_serving_reload.task import FAIL_PERMANENT_FAULTS, donefile_version, last_delivered, with_asset

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context


class DonefileSensor(BaseSensorOperator):
    """Wait until a donefile is there and is not the one delivered last.

    What was delivered last is `last_seen` if given, else what the state of `model_asset` remembers; since that is
    written only after a model is live, a delivery that failed is tried again by the next run. A store that cannot be
    reached is waited for, too, until the sensor's timeout.

    :param conn_id: connection to the store; its type decides the transport. (templated)
    :param remote_path: folder in the store. (templated)
    :param remote_donefile_name: name of the donefile. (templated)
    :param model_asset: asset of the live model.
    :param last_seen: version known already, as an earlier sensor returned it. (templated)
    :param poke_interval: seconds between two looks.
    :param deferrable: wait in the triggerer, without a worker.
    :return: the donefile version, a dict.
    """

    template_fields: Sequence[str] = ("conn_id", "remote_path", "remote_donefile_name", "last_seen")
    ui_color: str = "#fff2cc"

    def __init__(
        self,
        *,
        conn_id: str,
        remote_path: str,
        remote_donefile_name: str = "donefile",
        model_asset: Asset | None = None,
        last_seen: Mapping[str, Any] | None = None,
        poke_interval: float = 10,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        arguments = with_asset({"retry_policy": FAIL_PERMANENT_FAULTS, **kwargs}, "inlets", model_asset)
        super().__init__(poke_interval=poke_interval, **arguments)
        self.conn_id = conn_id
        self.remote_path = remote_path
        self.remote_donefile_name = remote_donefile_name
        self.model_asset = model_asset
        self.last_seen = last_seen
        self.deferrable = deferrable

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the donefile once."""
        from airflow_serving_reload.connections import open_store
        from airflow_serving_reload.watch import look

        last = donefile_version(self.last_seen) or last_delivered(context, self.model_asset)
        try:
            with open_store(self.conn_id, self.remote_path) as store:
                decision, seen = look(store, self.remote_path, self.remote_donefile_name, last)
        except StoreUnreachable as fault:
            self.log.warning("%s; waiting for it", fault)
            return PokeReturnValue(is_done=False)
        self.log.info("the donefile is %s: %s", decision.value, seen)
        if decision is Decision.CHANGED and seen is not None:
            return PokeReturnValue(is_done=True, xcom_value=seen.to_dict())
        return PokeReturnValue(is_done=False)

    def execute(self, context: Context) -> Any:
        """Wait here, or in the triggerer if the first look does not end it."""
        if not self.deferrable:
            return super().execute(context)
        result = self.poke(context)
        if result:
            return result.xcom_value

        from airflow_serving_reload.triggers.donefile import DonefileTrigger

        last = donefile_version(self.last_seen) or last_delivered(context, self.model_asset)
        self.defer(
            trigger=DonefileTrigger(
                conn_id=self.conn_id,
                remote_path=self.remote_path,
                remote_donefile_name=self.remote_donefile_name,
                poke_interval=self.poke_interval,
                last_seen=last.to_dict() if last else None,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )
        return None

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return what the trigger saw.

        :raises Refused: the store turned the trigger down.
        """
        if "error" in event:
            raise Refused(event["error"])
        return event
