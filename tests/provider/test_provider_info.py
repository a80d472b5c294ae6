"""What Airflow's provider manager learns, and that all of it is there."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_serving_reload.provider_info import get_provider_info

INFO = get_provider_info()
PUBLIC = {
    "airflow_serving_reload.hooks": {"HadoopCliHook", "HdfsNativeHook", "WebHdfsHook"},
    "airflow_serving_reload.operators": {
        "DownloadModelOperator",
        "OpenInferenceServer",
        "PaddleServer",
        "PublishModelOperator",
        "ReloadModelOperator",
        "RollbackModelOperator",
        "TouchTimestampOperator",
        "UnpackModelOperator",
        "UploadModelOperator",
        "serving_reload_dag",
    },
    "airflow_serving_reload.sensors": {
        "DonefileSensor",
        "OpenInferenceServer",
        "PaddleServer",
        "ReloadConfirmedSensor",
    },
    "airflow_serving_reload.triggers": {"DonefileTrigger", "donefile_asset"},
}


def schema(name: str) -> dict[str, object]:
    """Read one of Airflow's own schemas."""
    return json.loads((Path(airflow.__file__).parent / name).read_text())


def test_runtime_schema_accepts_it():
    """The schema by which Airflow checks a provider when it loads it accepts the dict."""
    jsonschema.validate(INFO, schema("provider_info.schema.json"))


@pytest.mark.parametrize("part", ["config", "connection-types", "integrations", "operators", "sensors", "triggers"])
def test_development_schema_accepts_each_part(part):
    """The stricter schema by which Airflow checks its own providers accepts each part that we fill in."""
    strict = schema("provider.yaml.schema.json")
    jsonschema.validate(INFO[part], {**strict["properties"][part], "definitions": strict.get("definitions", {})})


def test_name_is_that_of_the_distribution():
    """The package's name is the distribution's, without which Airflow would load no provider at all."""
    [entry_point] = [
        entry
        for entry in importlib.metadata.entry_points(group="apache_airflow_provider")
        if entry.dist and entry.dist.name == "airflow-serving-reload"
    ]
    assert INFO["package-name"] == entry_point.dist.name
    assert entry_point.load()() == INFO


def test_every_module_imports():
    """Every module that the dict names can be imported."""
    modules = [
        module
        for part in ("hooks", "operators", "sensors", "triggers")
        for one in INFO[part]
        for module in one["python-modules"]
    ]
    for module in modules:
        importlib.import_module(module)
    assert sorted(modules) == sorted(PUBLIC)


@pytest.mark.parametrize(("module", "names"), PUBLIC.items())
def test_public_names(module, names):
    """A module exports exactly the names that people outside write code against."""
    exported = importlib.import_module(module)
    assert set(exported.__all__) == names
    assert all(hasattr(exported, name) for name in names)


def test_airflow_lists_it():
    """`airflow providers list` shows the provider."""
    listed = subprocess.run(
        [Path(sys.executable).with_name("airflow"), "providers", "list", "--output", "json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    providers = json.loads(listed[listed.index("[{") :])
    assert "airflow-serving-reload" in [provider["package_name"] for provider in providers]


def test_configuration_is_read(monkeypatch):
    """The bounds on archives are those of Airflow's configuration."""
    from airflow_serving_reload.operators.base import unpacking_limits

    for name, value in (("MEMBERS", "7"), ("UNPACKED_BYTES", "8"), ("UNPACKED_RATIO", "9.5")):
        monkeypatch.setenv(f"AIRFLOW__SERVING_RELOAD__MAX_{name}", value)
    limits = unpacking_limits()
    assert (limits.members, limits.total_bytes, limits.ratio) == (7, 8, 9.5)


def test_configuration_defaults_are_those_of_the_engine(monkeypatch):
    """The defaults that the configuration documents are those that the engine has."""
    from airflow_serving_reload.delivery.archive import Limits

    options = INFO["config"]["serving_reload"]["options"]
    documented = [options[name]["default"] for name in ("max_members", "max_unpacked_bytes", "max_unpacked_ratio")]
    limits = Limits()
    assert [float(value) for value in documented] == [limits.members, limits.total_bytes, limits.ratio]


def test_nothing_heavy_is_imported_with_an_operator():
    """Importing the operators and sensors loads, beyond Airflow's SDK, nothing but small files of this package."""
    code = (
        "import sys; import airflow.sdk; before = set(sys.modules); "
        "import airflow_serving_reload.operators, airflow_serving_reload.sensors; "
        "print('\\n'.join(sorted(set(sys.modules) - before)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = printed.split()
    strangers = [name for name in loaded if name.partition(".")[0] not in ("airflow", "airflow_serving_reload")]
    assert [name for name in strangers if name.partition(".")[0] not in sys.stdlib_module_names] == []
    assert "airflow_serving_reload.operators.reload" in loaded
    for heavy in ("pipeline", "archive", "stores.http", "release"):
        assert f"airflow_serving_reload.delivery.{heavy}" not in loaded
