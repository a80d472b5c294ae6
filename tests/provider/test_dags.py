"""The example Dags and the Dag factory, as Airflow reads them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.sdk import Asset, Param
from airflow.sdk.definitions._internal.contextmanager import DagContext
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import ParamValidationError

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.operators import PaddleServer, serving_reload_dag

DAGS = sorted((Path(__file__).parents[2] / "dags").glob("*.py"))

MONITOR = {
    "conn_id": "model_store",
    "remote_path": "/",
    "remote_model_name": "uci_housing.tar.gz",
    "remote_donefile_name": "donefile",
    "local_path": ".",
    "local_model_name": "uci_housing_model",
    "local_timestamp_file": "fluid_time_file",
    "local_tmp_path": "_tmp",
    "unpacked_filename": "uci_housing_model",
    "interval": 7,
    "debug": True,
}
"""The command line of Paddle Serving's document, word for word; the connection holds the rest."""


@pytest.fixture(params=DAGS, ids=lambda file: file.stem)
def dag(request, monkeypatch):
    """Give each example Dag, registered as Airflow registers the Dags of a file."""
    spec = importlib.util.spec_from_file_location(f"example_{request.param.stem}", request.param)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setattr(DagContext, "current_autoregister_module_name", spec.name)
    monkeypatch.setattr(DagContext, "autoregistered_dags", set())
    spec.loader.exec_module(module)
    [(dag, _)] = DagContext.autoregistered_dags
    return dag


def test_explains_itself(dag):
    """An example Dag has a documentation, a display name, and a readable name for every task."""
    assert dag.doc_md
    assert dag.dag_display_name != dag.dag_id
    assert all(task.task_display_name != task.task_id for task in dag.tasks)


def test_form_explains_itself(dag):
    """Every field of an example Dag's trigger form has a type, a title and a description."""
    for name in dag.params:
        schema = dag.params.get_param(name).schema
        assert schema["type"]
        assert schema["title"]
        assert schema["description_md"]


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/b", "..%2f"])
def test_form_takes_no_path(dag, path):
    """No text field of an example Dag's trigger form accepts what could be a path."""
    for name in dag.params:
        param = dag.params.get_param(name)
        if "string" in param.schema["type"]:
            with pytest.raises(ParamValidationError):
                param.resolve(path)
            param.resolve("20261122T101112.123456Z-v1.0")


@pytest.mark.parametrize("file", DAGS, ids=lambda file: file.stem)
def test_reading_it_touches_nothing(file):
    """Reading an example Dag opens no socket, writes no file, and looks at no path that its settings name."""
    code = f"""
import sys
import airflow.sdk, airflow.triggers.base, airflow.providers.standard.operators.empty
seen = []
def hook(event, arguments):
    if event.startswith("socket.") and event != "socket.__new__":
        seen.append((event, arguments))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append((event, arguments))
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir") and "/srv/" in str(arguments[0]):
        seen.append((event, arguments))
sys.dont_write_bytecode = True
sys.addaudithook(hook)
exec(compile(open({str(file)!r}).read(), {str(file)!r}, "exec"), {{"__name__": "dag", "__file__": {str(file)!r}}})
assert not seen, seen
"""
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:airflow_serving_reload", "-c", code], check=True)


def test_one_call_is_one_command_line():
    """The options of a `monitor.py` command line make a Dag that watches the donefile and delivers in one task."""
    made = serving_reload_dag("housing", **MONITOR)
    [asset] = made.schedule
    _, watching = asset.watchers[0].trigger.serialize()
    assert (watching["remote_path"], watching["remote_donefile_name"]) == ("/", "donefile")
    assert watching["poke_interval"] == 7
    [task] = made.tasks
    for option, value in MONITOR.items():
        if option not in ("interval", "debug"):
            assert getattr(task, option) == value
    assert task.outlets == [Asset("housing live")]


def test_one_task_for_each_host():
    """Each host has a task of its own, on its own queue, with its own asset."""
    listed = serving_reload_dag("a", hosts=["h1", "h2"], **MONITOR)
    assert {task.queue for task in listed.tasks} == {"serving-h1", "serving-h2"}
    assert len({task.outlets[0].name for task in listed.tasks}) == 2
    # a host that is gone keeps its own tasks waiting, and no run of the others
    assert {task.max_active_tis_per_dag for task in listed.tasks} == {1}
    assert listed.max_active_runs > 1
    mapped = serving_reload_dag("b", hosts={"h1": "q1"}, **MONITOR)
    assert [task.queue for task in mapped.tasks] == ["q1"]


@pytest.mark.parametrize("hosts", ["h1", "", [], {}, [""], {"h1": ""}], ids=repr)
def test_hosts_without_a_host(hosts):
    """Hosts that are a text, or none at all, or without a name or queue, are refused; only None is any worker."""
    with pytest.raises(TypeError, match="neither a list of hosts nor a mapping"):
        serving_reload_dag("e", hosts=hosts, **MONITOR)


@pytest.mark.parametrize("kind", [dict, ParamsDict])
def test_default_args_and_params_are_added(kind):
    """What `default_args` and `params` hold takes the place of the default of that name, and of no other."""
    plain = serving_reload_dag("f", default_args=None, params=None, **MONITOR)
    params = kind({"reason": Param("none", type="string", title="Reason")})
    made = serving_reload_dag("g", default_args={"retries": 2, "owner": "training"}, params=params, **MONITOR)
    [before], [task] = plain.tasks, made.tasks
    assert (before.retries, task.retries, task.owner) == (10, 2, "training")
    for name in ("retry_delay", "retry_exponential_backoff", "max_retry_delay", "max_active_tis_per_dag"):
        assert getattr(task, name) == getattr(before, name)
    assert task.max_active_tis_per_dag == 1
    assert (set(plain.params), set(made.params)) == ({"force"}, {"force", "reason"})
    assert made.params.get_param("reason").schema["title"] == "Reason"
    assert made.params.get_param("force").schema["type"] == "boolean"
    assert serving_reload_dag("h", params=kind({"force": True}), **MONITOR).params["force"] is True


def test_template_for_a_watcher():
    """A path that is a template is refused where a watcher would take it literally, and left to a scheduled task."""
    templated = {**MONITOR, "remote_path": "/models/{{ ds }}"}
    with pytest.raises(Refused, match="watchers render no templates"):
        serving_reload_dag("i", **templated)
    [task] = serving_reload_dag("i", schedule="@daily", **templated).tasks
    assert task.remote_path == "/models/{{ ds }}"


def test_schedule_and_arguments_of_the_dag():
    """A schedule takes the place of the watcher, and further arguments are the Dag's."""
    kept = {"publish_mode": "in_place", "keep_releases": 7}
    made = serving_reload_dag("c", schedule="@hourly", tags={"x"}, server=PaddleServer(log_path="l"), **kept, **MONITOR)
    assert made.schedule == "@hourly"
    assert made.tags == {"x"}
    assert made.tasks[0].server == PaddleServer(log_path="l")
    assert {option: getattr(made.tasks[0], option) for option in kept} == kept


@pytest.mark.parametrize("option", ["ftp_password", "hadoop_bin", "fs_ugi", "type", "general_host"])
def test_options_of_the_connection(option):
    """An option that belongs to the connection is refused, by name and without its value."""
    with pytest.raises(TypeError, match=f"{option} belong to the Airflow connection 'model_store'") as refusal:
        serving_reload_dag("d", **MONITOR, **{option: "secret"})
    assert "secret" not in str(refusal.value)
