"""The sensors: one decision in both modes, and a proof read out of a server's log."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, TaskDeferred

from airflow_serving_reload.delivery.errors import Refused, ReloadRefused
from airflow_serving_reload.delivery.servers.base import Expected, Look, State
from airflow_serving_reload.sensors import DonefileSensor, PaddleServer, ReloadConfirmedSensor

from .conftest import LIVE, AssetState, context_with, glog, served


def sensor(**arguments):
    """Make a sensor that gives up at once."""
    arguments = {"conn_id": "model_store", "remote_path": "/models", "poke_interval": 0, "timeout": 0, **arguments}
    return DonefileSensor(task_id="wait", **arguments)


@pytest.mark.parametrize("deferrable", [False, True])
def test_sees_a_new_donefile(workplace, deferrable):
    """A donefile that is there at the first look ends the waiting in both modes, with the same dict."""
    uploaded = workplace.upload("v1")
    assert sensor(deferrable=deferrable).execute({}) == uploaded["donefile"]


def test_waits_for_a_missing_donefile(workplace):
    """A missing donefile means "not yet", until the time is over."""
    with pytest.raises(AirflowSensorTimeout):
        sensor().execute({})


def test_waits_for_an_unreachable_store(workplace, monkeypatch):
    """A store that cannot be reached is waited for."""
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", '{"conn_type": "http", "host": "127.0.0.1", "port": 1}')
    with pytest.raises(AirflowSensorTimeout):
        sensor().execute({})


def test_compares_with_what_was_seen_last(workplace):
    """The version that was seen last does not end the waiting, the next one does."""
    first = workplace.upload("v1")["donefile"]
    with pytest.raises(AirflowSensorTimeout):
        sensor(last_seen=first).execute({})
    second = workplace.upload("v2")["donefile"]
    assert sensor(last_seen=first).execute({}) == second


def test_compares_with_what_is_live(workplace):
    """The version that the live model's asset remembers does not end the waiting, whichever run delivered it."""
    first = workplace.upload("v1")["donefile"]
    context = context_with(AssetState(live={"donefile": first}))
    with pytest.raises(AirflowSensorTimeout):
        sensor(model_asset=LIVE).execute(context)
    second = workplace.upload("v2")["donefile"]
    assert sensor(model_asset=LIVE).execute(context) == second


def test_defers_with_what_it_knows(workplace):
    """What the sensor compares with travels to the trigger when it defers."""
    first = workplace.upload("v1")["donefile"]
    context = context_with(AssetState(live={"donefile": first}))
    with pytest.raises(TaskDeferred) as deferred:
        sensor(model_asset=LIVE, deferrable=True, timeout=60, poke_interval=3).execute(context)
    classpath, arguments = deferred.value.trigger.serialize()
    assert classpath == "airflow_serving_reload.triggers.donefile.DonefileTrigger"
    assert arguments["last_seen"] == first
    assert arguments["poke_interval"] == 3
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout.total_seconds() == 60


def test_resumes_with_what_the_trigger_saw(workplace):
    """The event of the trigger is what the deferred sensor returns, and a refusal in it is raised."""
    seen = workplace.upload("v1")["donefile"]
    assert sensor(deferrable=True).execute_complete({}, seen) == seen
    with pytest.raises(Refused, match="401"):
        sensor(deferrable=True).execute_complete({}, {"error": "the server answered 401"})


def test_confirms_a_reload_since_the_touch(tmp_path):
    """A reload counts only if the server began it after the touch; then the live model's asset remembers it."""
    log = tmp_path / "serving.INFO"
    log.write_text(served())
    since = time.time()
    state = AssetState()
    confirm = ReloadConfirmedSensor(
        task_id="confirm",
        server=PaddleServer(log_path=str(log)),
        since=since,
        model_asset=LIVE,
        donefile={"size": 3},
        poke_interval=0,
        timeout=0,
    )
    with pytest.raises(AirflowSensorTimeout):
        confirm.execute(context_with(state))
    assert state.state == {}
    with log.open("a") as file:
        file.write(served())
    assert "Succ load engine" in confirm.execute(context_with(state))
    assert state.state["live"]["donefile"]["size"] == 3


def test_refused_reload_fails_at_once(tmp_path):
    """A load that the server says has failed fails the task with the server's own line."""
    log = tmp_path / "serving.INFO"
    since = time.time()
    log.write_text(glog("begin reload model[uci].") + glog("Failed create model, path: uci", severity="E"))
    confirm = ReloadConfirmedSensor(task_id="confirm", server=PaddleServer(log_path=str(log)), since=str(since))
    with pytest.raises(ReloadRefused, match="Failed create model, path: uci"):
        confirm.execute({})


class Agreeing:
    """A server that serves whatever it should, and remembers what that was."""

    expected = None

    def open(self, _connect):
        """Give itself."""
        return nullcontext(self)

    def mark_since(self, _seconds):
        """Note nothing."""
        return {}

    def look(self, expected, _mark):
        """Agree."""
        self.expected = expected
        return Look(State.SERVED, "it serves it")


def confirm(server, **arguments):
    """Look once, with arguments that are only known when the task runs."""
    sensor = ReloadConfirmedSensor(task_id="confirm", server=server, release="{{ release }}", timeout=0)
    sensor.release = arguments.get("release")
    sensor.since = arguments.get("since")
    return sensor.execute({})


@pytest.mark.parametrize("rendered", [dict, str, json.dumps], ids=["native", "text", "JSON"])
def test_confirms_what_a_template_tells(rendered):
    """What `PublishModelOperator` returned names the same release as a dict, as its text and as JSON."""
    published = {"changed": True, "release": "r-v1", "donefile": {"size": 3, "content": {"version": "v1"}}}
    server = Agreeing()
    assert confirm(server, release=rendered(published), since="None") == "it serves it"
    assert server.expected == Expected("r-v1", None, "v1")


@pytest.mark.parametrize("nothing", [None, "", "None"])
def test_confirms_what_is_not_absent(nothing):
    """Of release and since one may be absent, also as a template's text; if both are, the task is refused."""
    server = Agreeing()
    confirm(server, release=nothing, since="12.5")
    assert server.expected == Expected(None, 12_500_000_000)
    confirm(server, release="r-v1", since=nothing)
    assert server.expected == Expected("r-v1", None)
    with pytest.raises(Refused, match=r"confirming a reload .* neither release nor since"):
        confirm(server, release=nothing, since=nothing)
    with pytest.raises(Refused, match=r"making the task .* neither release nor since"):
        ReloadConfirmedSensor(task_id="confirm", server=server, release=nothing, since=nothing)


@pytest.mark.parametrize("since", ["yesterday", "nan", "inf", ["1"], {}], ids=repr)
def test_confirms_since_no_number(since):
    """A time that is no number is refused, since a retry would be given the same."""
    with pytest.raises(Refused, match=r"since is .*TouchTimestampOperator"):
        confirm(Agreeing(), release="r-v1", since=since)


@pytest.mark.parametrize("release", [{}, {"release": None}, "{'changed': True}", "{r-v1", 7], ids=repr)
def test_confirms_no_release(release):
    """What is given for the release and names none is refused, also where the time is known."""
    with pytest.raises(Refused, match="names none; give what PublishModelOperator returned"):
        confirm(Agreeing(), release=release, since=1)
