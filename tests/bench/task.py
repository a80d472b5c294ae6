"""The program that is measured: one task of the provider, or a row of polls, and what it says of itself behind it."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

# the program of every task's process, so that nothing of it is imported within the task
import airflow.sdk.execution_time.task_runner  # noqa: F401
from airflow.sdk import RetryAction

from airflow_serving_reload.connections import open_store
from airflow_serving_reload.delivery.stores.base import child
from airflow_serving_reload.operators import ReloadModelOperator, UploadModelOperator
from tests.bench.sampling import sampled
from tests.bench.watching import memory_of, written_by

if TYPE_CHECKING:
    from airflow_serving_reload.operators.base import DeliveryOperator


def run(operator: DeliveryOperator, *, profile: bool) -> dict[str, Any]:
    """Run a task.

    :param profile: look where the time goes.
    :return: `seconds`; `memory`, how many bytes of it were present at most above those of the imported operator;
        `written`, bytes for the disk; what it `returned`, or its `fault`; and its `profile`.
    """
    # from here on the peak counts anew
    Path("/proc/self/clear_refs").write_text("5")
    before, written = memory_of("self", "VmRSS"), written_by("self")
    with sampled() if profile else nullcontext({}) as shares:
        began = time.perf_counter()
        try:
            told = {"returned": operator.execute({})}
        except Exception as error:  # noqa: BLE001 - what it raises is what is asked for
            told = {"fault": _fault(operator, error)}
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "memory": memory_of("self", "VmHWM") - before,
        "written": written_by("self") - written,
        "profile": shares,
        **told,
    }


def _fault(operator: DeliveryOperator, error: Exception) -> dict[str, Any]:
    assert operator.retry_policy
    decision = operator.retry_policy.evaluate(error, try_number=1, max_tries=3)
    return {
        "kind": type(error).__name__,
        "words": str(error),
        "is_retried": decision.action is not RetryAction.FAIL,
    }


def poll(conn_id: str, remote_path: str, count: int) -> dict[str, Any]:
    """Look at an unchanged donefile, and ask whether it is unchanged, as the trigger does.

    :param count: how often, behind a first look that connects.
    :return: `first`, seconds of that look; `look` and `question`, each a pair: the median of their seconds, and the
        seconds of processor time of each one, those of processes that it starts included.
    """
    donefile = child(remote_path, "donefile")
    with open_store(conn_id, remote_path) as store:
        began = time.perf_counter()
        assert store.donefile(donefile) is not None
        first = time.perf_counter() - began
        look = _repeated(lambda: store.donefile(donefile), count)
        question = _repeated(lambda: store.stat(donefile), count)
    return {"first": first, "look": look, "question": question}


def _repeated(ask: Callable[[], object], count: int) -> tuple[float, float]:
    known, took = ask(), []
    cpu_before = _cpu_seconds()
    for _ in range(count):
        began = time.perf_counter()
        seen = ask()
        took.append(time.perf_counter() - began)
        assert seen == known
    return statistics.median(took), (_cpu_seconds() - cpu_before) / count


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main(order: Mapping[str, Any], outcome: Path) -> None:
    """Do what is asked and write down the outcome."""
    verb, arguments = order["verb"], order["arguments"]
    if verb == "poll":
        told = poll(**arguments)
    else:
        kind = {"upload": UploadModelOperator, "reload": ReloadModelOperator}[verb]
        told = run(kind(task_id=verb, **arguments), profile=order["profile"])
    outcome.write_text(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
