"""The commands `airflow serving-reload status` and `history`."""

from __future__ import annotations

import json

import pytest
from airflow.cli import cli_parser

from airflow_serving_reload.operators import ReloadModelOperator, RollbackModelOperator


def run(capsys, command, *arguments):
    """Run a command as Airflow's own parser does, and read what it printed as JSON."""
    parsed = cli_parser.get_parser().parse_args(["serving-reload", command, *arguments, "--output", "json"])
    capsys.readouterr()
    parsed.func(parsed)
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def rolled_back(workplace):
    """Deliver two models and roll back from the second."""
    for version in ("v1", "v2"):
        workplace.upload(version)
        ReloadModelOperator(task_id="r", **workplace.remote, **workplace.local, unpacked_filename="trained").execute({})
    RollbackModelOperator(task_id="b", **workplace.local).execute({})
    return workplace


def test_status_shows_what_is_live(rolled_back, capsys):
    """The status is one row for each model, with its live release, where it came from and since when."""
    [row] = run(capsys, "status", str(rolled_back.serving))
    assert (row["model"], row["state"], row["version"]) == ("model", "live", "v1")
    assert row["source"].endswith("models/model.tar.gz")
    assert row["published"]


def test_history_shows_what_was_given_up(rolled_back, capsys):
    """The history has every kept release, and says which was given up and why."""
    rows = run(capsys, "history", str(rolled_back.serving), "--local-model-name", "model")
    states = {row["version"]: (row["state"], row["why"].partition(" at ")[0]) for row in rows}
    assert states["v1"] == ("live", "")
    assert states["v2"] == ("given up", "rolled back by hand")
    assert len(rows) == 3


def test_nothing_delivered(tmp_path, capsys):
    """A folder without releases is told as such."""
    with pytest.raises(SystemExit, match="Nothing was delivered"):
        run(capsys, "status", str(tmp_path))
