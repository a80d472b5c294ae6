"""What the tasks of this provider have in common: which faults are retried, and what is remembered of a live model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_serving_reload.delivery.errors import PERMANENT, Refused

if TYPE_CHECKING:
    from airflow.sdk import Asset, BaseOperator, Context

    from airflow_serving_reload.delivery.donefile import DonefileVersion

LIVE = "live"
"""Key in the state of a model's asset under which stands what was delivered last."""

FAIL_PERMANENT_FAULTS = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=list(PERMANENT),
            action=RetryAction.FAIL,
            reason="a retry would fail in the same way",
        )
    ]
)
"""Retry policy of every task here: what a retry cannot mend fails at once, the rest is retried as the Dag says."""


def with_asset(arguments: dict[str, Any], kind: str, asset: Asset | None) -> dict[str, Any]:
    """Add an asset to the `inlets` or `outlets` among an operator's arguments.

    Its state can only be reached by tasks that name it there.
    """
    if asset is None:
        return arguments
    present = arguments.get(kind) or []
    present = list(present) if isinstance(present, list | tuple) else [present]
    return {**arguments, kind: present if asset in present else [*present, asset]}


def remember_live(context: Context, asset: Asset | None, live: Mapping[str, Any]) -> None:
    """Write into the state of a model's asset what is live, and tell it to whoever the asset's event starts.

    Outside of a Dag run there is no such state, and nothing is written.
    """
    if asset is None or "asset_state_store" not in context:
        return
    context["asset_state_store"][asset].set(LIVE, dict(live))
    context["outlet_events"][asset].extra.update(live)


def emit_nothing(task: BaseOperator, asset: Asset | None) -> None:
    """Keep a task that changed nothing from announcing a change: Airflow announces every outlet of a success."""
    task.outlets = [outlet for outlet in task.outlets if outlet != asset]


def last_delivered(context: Context, asset: Asset | None) -> DonefileVersion | None:
    """Give the donefile version that was delivered last, from the state of the model's asset."""
    if asset is None or "asset_state_store" not in context:
        return None
    live = context["asset_state_store"][asset].get(LIVE)
    return donefile_version(live.get("donefile")) if isinstance(live, dict) else None


def donefile_version(value: Any) -> DonefileVersion | None:
    """Read a donefile version that another task or a template gave.

    :param value: the dict, its JSON, or nothing.
    :raises Refused: it is something else.
    """
    from airflow_serving_reload.delivery.donefile import DonefileVersion

    if value in (None, "", "None"):
        return None
    try:
        facts = json.loads(value) if isinstance(value, str) else value
        return DonefileVersion.from_dict(facts)
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(
            f"reading a donefile version: {value!r} is none; give what DonefileSensor or UploadModelOperator returned"
        ) from error


def is_true(value: Any) -> bool:
    """Read a truth value that a template may have turned into text."""
    return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "t", "yes", "y", "1", "on")


def run_of(context: Context) -> dict[str, str]:
    """Say which run of which Dag this is; empty outside of one."""
    names = ("dag_id", "run_id", "task_id")
    instance = context.get("ti")
    return {name: str(getattr(instance, name)) for name in names} if instance else {}
