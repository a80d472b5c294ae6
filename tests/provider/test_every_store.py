"""The whole way over every store, by its connection alone: each operator, the sensor, the trigger and the Dag."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, TaskDeferred

from airflow_serving_reload.operators import (
    DownloadModelOperator,
    PublishModelOperator,
    ReloadModelOperator,
    RollbackModelOperator,
    TouchTimestampOperator,
    UnpackModelOperator,
    serving_reload_dag,
)
from airflow_serving_reload.sensors import DonefileSensor
from airflow_serving_reload.triggers import DonefileTrigger
from tests.contract.bench import PASSWORD
from tests.stores import STORES, Servers

from .conftest import Workplace
from .test_trigger import running

NAMES = ("-with space#mark per%cent 中文", ".hidden")


@pytest.fixture(params=STORES)
def place(
    request: pytest.FixtureRequest, workplace: Workplace, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workplace]:
    """Give the folders of training and serving, with each kind of store between them."""
    with STORES[request.param](servers, workplace.store) as way:
        for name, value in way.variables.items():
            monkeypatch.setenv(name, value)
        yield replace(workplace, remote_path=way.remote_path)


def reload(place: Workplace, **arguments: Any) -> dict[str, Any]:
    """Deliver the model in one task."""
    arguments = {**place.remote, **place.local, "unpacked_filename": "trained", **arguments}
    return ReloadModelOperator(task_id="reload", **arguments).execute({})


def sensor(place: Workplace, **arguments: Any) -> DonefileSensor:
    """Make a sensor that gives up at once."""
    where = {"conn_id": "model_store", "remote_path": place.remote_path}
    return DonefileSensor(task_id="wait", poke_interval=0, timeout=0, **where, **arguments)


@pytest.mark.parametrize("donefile_format", ["json", "empty"])
def test_upload_reload_and_roll_back(place, caplog, capsys, donefile_format):
    """An uploaded model is delivered once, the next one too, until it is rolled back, and no log shows a password."""
    caplog.set_level("DEBUG", logger="airflow_serving_reload")
    uploaded = place.upload("v1", donefile_format=donefile_format)
    outcome = reload(place)
    assert outcome["sha256"] == uploaded["sha256"]
    assert place.live_weights() == "v1"
    assert not reload(place)["changed"]
    place.upload("v2", donefile_format=donefile_format)
    assert reload(place)["changed"]
    assert place.live_weights() == "v2"
    RollbackModelOperator(task_id="back", **place.local).execute({})
    assert place.live_weights() == "v1"
    shown = capsys.readouterr()
    assert PASSWORD not in caplog.text + shown.out + shown.err + json.dumps(outcome)


def test_step_by_step(place):
    """The four steps, handing each other paths, bring a model."""
    donefile = place.upload("v1")["donefile"]
    packed = DownloadModelOperator(
        task_id="d", **place.remote, local_path=str(place.serving), donefile=donefile
    ).execute({})
    unpacked = UnpackModelOperator(task_id="u", packed_path=packed, unpacked_filename="trained").execute({})
    PublishModelOperator(task_id="p", unpacked_path=unpacked, **place.local).execute({})
    TouchTimestampOperator(task_id="t", **place.local).execute({})
    assert place.live_weights() == "v1"
    assert not reload(place)["changed"]


def test_folder_model(place):
    """A model that is a folder, with names of every kind, is uploaded and delivered, without what it lost."""
    folder = {"remote_model_name": "-模型 #1 50%"}
    below = place.model / "below"
    below.mkdir()
    for name in (*NAMES, "gone in v2"):
        (below / name).write_text(name)
    place.upload("v1", **folder)
    reload(place, unpacked_filename=None, **folder)
    live = place.serving / "model"
    assert (live / "below" / "gone in v2").exists()
    (below / "gone in v2").unlink()
    uploaded = place.upload("v2", **folder)
    assert reload(place, unpacked_filename=None, **folder)["sha256"] == uploaded["sha256"]
    assert sorted(path.name for path in (live / "below").iterdir()) == sorted(NAMES)
    assert place.live_weights() == "v2"


@pytest.mark.parametrize("deferrable", [False, True])
def test_sensor(place, deferrable):
    """The sensor waits while there is no donefile or the known one, and sees the next."""
    waits = TaskDeferred if deferrable else AirflowSensorTimeout
    with pytest.raises(waits):
        sensor(place, deferrable=deferrable).execute({})
    first = place.upload("v1")["donefile"]
    assert sensor(place, deferrable=deferrable).execute({}) == first
    with pytest.raises(waits):
        sensor(place, deferrable=deferrable, last_seen=first).execute({})
    second = place.upload("v2")["donefile"]
    assert sensor(place, deferrable=deferrable, last_seen=first).execute({}) == second


async def test_trigger(place):
    """The trigger gives an event for each version, and none for one that is known."""
    trigger = DonefileTrigger(conn_id="model_store", remote_path=place.remote_path, poke_interval=0.05)
    async with running(trigger) as next_event:
        first = (await asyncio.to_thread(place.upload, "v1"))["donefile"]
        assert await next_event(60) == first
        second = (await asyncio.to_thread(place.upload, "v2"))["donefile"]
        assert await next_event(60) == second


def test_dag(place):
    """The task of the Dag that takes the place of a `monitor.py` command line delivers."""
    place.upload("v1")
    dag = serving_reload_dag("over_store", unpacked_filename="trained", **place.remote, **place.local)
    [task] = dag.tasks
    assert task.execute({})["changed"]
    assert place.live_weights() == "v1"
