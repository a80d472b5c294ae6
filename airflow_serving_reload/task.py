"""What the tasks of this provider have in common: which faults are retried, and what is remembered of a live model."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryDecision, RetryRule

from airflow_serving_reload.delivery.errors import PERMANENT, Refused, ReloadRefused

if TYPE_CHECKING:
    from airflow.sdk import Asset, BaseOperator, Context
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor

    from airflow_serving_reload.delivery.donefile import DonefileVersion

Value = TypeVar("Value")

LIVE = "live"
"""Key in the state of a model's asset under which stands what was delivered last."""

RELOAD_TRIES = 3
"""After how many tries a model that its server refuses is left alone, since each one puts it before the server."""


class _DeliveryRetryPolicy(ExceptionRetryPolicy):
    """What a retry cannot mend fails at once, a refused reload soon; the rest is retried as the Dag says."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide about one failure."""
        if isinstance(exception, ReloadRefused) and try_number >= RELOAD_TRIES:
            return RetryDecision.fail(f"the server refused it in {try_number} tries")
        return super().evaluate(exception, try_number, max_tries, context)


FAIL_PERMANENT_FAULTS = _DeliveryRetryPolicy(
    rules=[
        RetryRule(
            exception=list(PERMANENT),
            action=RetryAction.FAIL,
            reason="a retry would fail in the same way",
        )
    ]
)
"""Retry policy of every task here."""


def with_asset(arguments: dict[str, Any], kind: str, asset: Asset | None) -> dict[str, Any]:
    """Add an asset to the `inlets` or `outlets` among an operator's arguments.

    Its state can only be reached by tasks that name it there.
    """
    if asset is None:
        return arguments
    present = arguments.get(kind) or []
    present = list(present) if isinstance(present, list | tuple) else [present]
    return {**arguments, kind: present if asset in present else [*present, asset]}


def _state_of(context: Context, asset: Asset | None) -> AssetStateStoreAccessor | None:
    """Give the state of a model's asset; None outside of a Dag run."""
    if asset is None:
        return None
    if "asset_state_store" in context:
        return context["asset_state_store"][asset]
    if "ti" not in context:
        return None
    # a mapped task had no inlets and outlets yet when its context was made
    from airflow.sdk.execution_time.context import AssetStateStoreAccessors

    return AssetStateStoreAccessors([asset])[asset]


def remember_live(context: Context, asset: Asset | None, live: Mapping[str, Any]) -> None:
    """Write into the state of a model's asset what is live, and tell it to whoever the asset's event starts.

    Outside of a Dag run there is no such state, and nothing is written.
    """
    if asset is None or (state := _state_of(context, asset)) is None:
        return
    state.set(LIVE, dict(live))
    context["outlet_events"][asset].extra.update(live)


def emit_nothing(task: BaseOperator, asset: Asset | None) -> None:
    """Keep a task that changed nothing from announcing a change: Airflow announces every outlet of a success."""
    task.outlets = [outlet for outlet in task.outlets if outlet != asset]


def last_delivered(context: Context, asset: Asset | None) -> DonefileVersion | None:
    """Give the donefile version that was delivered last, from the state of the model's asset."""
    if (state := _state_of(context, asset)) is None:
        return None
    live = state.get(LIVE)
    return donefile_version(live.get("donefile")) if isinstance(live, dict) else None


def given(value: Value) -> Value | None:
    """Give a value; None if it is absent, also where a template has made text of that."""
    return None if isinstance(value, str) and value in ("", "None") else value


def donefile_version(value: Any) -> DonefileVersion | None:
    """Read a donefile version that another task or a template gave.

    :param value: the dict, its text as a template renders it or as JSON, or nothing.
    :raises Refused: it is something else.
    """
    from airflow_serving_reload.delivery.donefile import DonefileVersion

    if given(value) is None:
        return None
    try:
        return DonefileVersion.from_dict(read_mapping(value))
    except ValueError as error:
        raise Refused(
            f"reading a donefile version: {value!r} is none; give what DonefileSensor or UploadModelOperator returned"
        ) from error


def read_mapping(value: Any) -> Mapping[str, Any]:
    """Read a mapping that a template may have turned into text, its own or JSON.

    :raises ValueError: it is something else.
    """
    try:
        mapping = _read(value) if isinstance(value, str) else value
    except (TypeError, SyntaxError) as error:
        raise ValueError("neither JSON nor the text of a value") from error
    if not isinstance(mapping, Mapping):
        raise ValueError(f"no mapping, but {type(mapping).__name__}")
    return mapping


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text.strip())


def is_true(value: Any) -> bool:
    """Read a truth value that a template may have turned into text."""
    return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "t", "yes", "y", "1", "on")


def run_of(context: Context) -> dict[str, str]:
    """Say which run of which Dag this is; empty outside of one."""
    names = ("dag_id", "run_id", "task_id")
    instance = context.get("ti")
    return {name: str(getattr(instance, name)) for name in names} if instance else {}
