"""A whole Airflow starts, works, survives the loss of its components, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_serving_reload.demo.airflow_client import AirflowError
from airflow_serving_reload.demo.airflow_stack import AirflowStack

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("airflow")]

# Far beyond what anything here takes: it only turns a hang into a failure.
DEADLINE_SECONDS = 120

DAGS = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.filesystem import FileSensor
from airflow.sdk import Asset, Metadata, Param, dag, task


@dag(schedule=None, params={"price": Param(1, type="integer")})
def double():
    @task(outlets=[Asset("prices")])
    def calculate(params=None):
        if params["price"] < 0:
            raise ValueError("no price is negative")
        yield Metadata(Asset("prices"), {"price": params["price"]})
        return 2 * params["price"]

    calculate()


@dag(schedule=None)
def wait():
    FileSensor(task_id="wait", filepath="{{ dag_run.conf['file'] }}", deferrable=True, poke_interval=0.5)


@dag(schedule=None)
def sleep():
    BashOperator(task_id="sleep", bash_command="touch '{{ dag_run.conf['file'] }}'; sleep 600")


double(), wait(), sleep()
"""

OWNER = """
import sys, time
from pathlib import Path
from airflow_serving_reload.demo.airflow_stack import AirflowStack

home, dags, template, running = map(Path, sys.argv[1:])
with AirflowStack(home, dags_folder=dags, environment={}, database_template=template) as stack:
    stack.client.wait_for_dags("sleep")
    stack.client.trigger("sleep", {"file": str(running)})
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a Dag file in ``dags`` and room for the rest."""
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "dags").mkdir()
    (folder / "dags" / "few.py").write_text(DAGS)
    return folder


@pytest.fixture(scope="module")
def marker() -> str:
    """Give a variable that all processes of the stack inherit."""
    return f"STACK_TEST={uuid.uuid4()}"


@pytest.fixture(scope="module")
def stack(folder: Path, marker: str, database_template: Path) -> Iterator[AirflowStack]:
    """Start a stack that the tests of this module share."""
    name, value = marker.split("=")
    with AirflowStack(
        folder / "home",
        dags_folder=folder / "dags",
        environment={name: value, "AIRFLOW_CONN_FS_DEFAULT": '{"conn_type": "fs"}'},
        database_template=database_template,
        unwind_on_signals=False,
    ) as stack:
        stack.client.wait_for_dags("double", "wait", "sleep")
        yield stack


def living(home: Path, marker: str) -> set[int]:
    """List the processes of a stack.

    Some overwrite their environment with a title, but stay in the folder; others go elsewhere, but keep it.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            at_home = (process / "cwd").readlink().is_relative_to(home)
            if at_home or marker.encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
        except OSError:
            continue  # It has just ended, or is somebody else's.
    return found


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)


def test_dag_runs(stack: AirflowStack) -> None:
    """A triggered run gets its parameters, succeeds, and its result and its asset event can be read."""
    run_id = stack.client.trigger("double", {"price": 21})
    run = stack.client.wait_for_run("double", run_id, seconds=DEADLINE_SECONDS)
    assert (run.run_type, run.state, run.conf) == ("manual", "success", {"price": 21})
    assert run in stack.client.runs("double")
    (task,) = stack.client.task_instances("double", run_id)
    assert (task.task_id, task.map_index, task.state, task.try_number) == ("calculate", -1, "success", 1)
    assert stack.client.xcom("double", run_id, "calculate") == 42
    event = stack.client.asset_events("prices")[-1]
    assert (event.extra, event.source_dag_id, event.source_task_id) == ({"price": 21}, "double", "calculate")
    assert stack.client.asset_events("unheard of") == []


def test_failed_run_is_explained(stack: AirflowStack) -> None:
    """Waiting for a run that fails raises, with the failed task and the exception of its log."""
    run_id = stack.client.trigger("double", {"price": -1})
    with pytest.raises(AirflowError, match=r"Task calculate .*: failed(.*\n)*.*ValueError: no price is"):
        stack.client.wait_for_run("double", run_id, seconds=DEADLINE_SECONDS)


def test_refused_request_is_explained(stack: AirflowStack) -> None:
    """A request that Airflow refuses raises, with Airflow's reason."""
    with pytest.raises(AirflowError, match=r"'no number' is not of type 'integer'"):
        stack.client.trigger("double", {"price": "no number"})


def test_paused_dag_does_not_run(stack: AirflowStack) -> None:
    """A run of a paused Dag begins only after the Dag has been unpaused."""
    stack.client.pause("double")
    run_id = stack.client.trigger("double")
    with pytest.raises(AirflowError, match=r"run .* of Dag double has not ended"):
        stack.client.wait_for_run("double", run_id, seconds=0.5)
    assert stack.client.run("double", run_id).state == "queued"
    stack.client.unpause("double")
    stack.client.wait_for_run("double", run_id, seconds=DEADLINE_SECONDS)


def test_killed_triggerer_and_scheduler(stack: AirflowStack, tmp_path: Path) -> None:
    """What waited in a killed triggerer, under a killed scheduler, is resumed by the ones started next."""
    run_id = stack.client.trigger("wait", {"file": str(tmp_path / "awaited")})
    wait_until(lambda: stack.client.task_instances("wait", run_id)[0].state == "deferred")
    stack.restart("triggerer", kill=True)
    stack.restart("scheduler", kill=True)
    (tmp_path / "awaited").touch()
    stack.client.wait_for_run("wait", run_id, seconds=DEADLINE_SECONDS)
    run_id = stack.client.trigger("double", {"price": 4})
    stack.client.wait_for_run("double", run_id, seconds=DEADLINE_SECONDS)
    assert stack.client.xcom("double", run_id, "calculate") == 8


def test_broken_dag_file_is_explained(stack: AirflowStack, folder: Path) -> None:
    """Waiting for Dags raises, with the exception, as long as a file cannot be imported."""
    broken = folder / "dags" / "broken.py"
    broken.write_text("from airflow.sdk import dag\nraise RuntimeError('out of order')\n")
    try:
        with pytest.raises(AirflowError, match=r"broken.py(.*\n)*.*RuntimeError: out of order"):
            stack.client.wait_for_dags("broken", seconds=DEADLINE_SECONDS)
    finally:
        broken.unlink()
    wait_until(lambda: stack.client.import_errors() == {})
    stack.client.wait_for_dags("double")


def test_port_in_use_is_explained(stack: AirflowStack, tmp_path: Path) -> None:
    """A stack on a port on which something else listens is refused before anything is started."""
    with pytest.raises(AirflowError, match=rf"Cannot listen on 127.0.0.1:{stack.port}: .* another port"):
        AirflowStack(tmp_path, dags_folder=tmp_path, environment={}, port=stack.port)


def test_leaving_leaves_nothing(stack: AirflowStack, folder: Path, marker: str, tmp_path: Path) -> None:
    """When the stack is left while a task runs a program, no process of it lives any more."""
    stack.client.trigger("sleep", {"file": str(tmp_path / "running")})
    wait_until((tmp_path / "running").exists)
    assert len(living(folder / "home", marker)) > 8, "components, their guardians and workers, and the task"
    stack.__exit__(None, None, None)
    assert living(folder / "home", marker) == set()


def test_killed_owner_leaves_nothing(
    folder: Path, database_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon after the owner of a stack has been killed while a task runs a program, nothing of it lives."""
    marker = f"STACK_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*marker.split("="))
    home, running = tmp_path / "home", tmp_path / "running"
    arguments = map(str, [home, folder / "dags", database_template, running])
    with subprocess.Popen([sys.executable, "-c", OWNER, *arguments]) as owner:
        try:
            wait_until(lambda: running.exists() or owner.poll() is not None)
            assert owner.poll() is None
        finally:
            owner.kill()
    wait_until(lambda: living(home, marker) == set())
