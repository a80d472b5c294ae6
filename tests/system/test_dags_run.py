"""The example Dags, run by a real Airflow against the demo's store and server, while a client asks without pause."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import statistics
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.release import Releases
from airflow_serving_reload.delivery.upload import DonefileFormat, Uploaded
from airflow_serving_reload.demo.airflow_client import AirflowError, TaskInstance
from airflow_serving_reload.demo.host import Answer, Reader

from .conftest import ARCHIVE, RELOAD, WATCHED, Model, System
from .running import DEADLINE_SECONDS, wait_until

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("airflow")]

STEPS = "uci_housing_train_to_serving"
STEPS_PATH = "/models/uci_housing_steps"
RESULT = {
    "changed",
    "release",
    "previous_release",
    "donefile",
    "sha256",
    "bytes",
    "files",
    "seconds",
    "confirmed",
}
DELIVERIES = 10


@pytest.fixture(autouse=True)
def reader(system: System) -> Iterator[Reader]:
    """Ask the server during the whole test; afterwards, all requests were answered, each by one whole model."""
    system.wait_until_quiet()
    with Reader(system.host.probe_url) as reader:
        assert reader.wait_for_another(None, seconds=DEADLINE_SECONDS)
        yield reader
        system.wait_until_quiet()
    assert reader.sent > 0
    assert reader.failures == []
    assert reader.mixed() == []
    prices = {(answer.release, answer.price) for answer in reader.first_seen}
    assert len(prices) == len({release for release, _ in prices}), "each release has one price"


@dataclass(frozen=True)
class Delivered:
    """A model that was uploaded, noticed by the watcher, and is served."""

    uploaded: Uploaded
    answer: Answer
    result: dict[str, Any]


def deliver(system: System, reader: Reader, model: Model | None = None) -> Delivered:
    """Upload a model that does not answer now, and wait until the watcher's Dag has brought it to the server."""
    model = model or system.other_models(reader.last)[0]
    known = len(system.client.runs(RELOAD))
    uploaded = system.upload(model.path)
    answer = system.wait_for_answer(reader, model)
    [run] = system.wait_for_new_runs(RELOAD, known)
    return Delivered(uploaded, answer, system.client.xcom(RELOAD, run.run_id, "reload_model"))


def version_of(facts: dict[str, Any]) -> DonefileVersion:
    """Read a donefile version out of an XCom, an event or a state."""
    return DonefileVersion.from_dict(facts)


def states(system: System, dag_id: str, run_id: str) -> dict[str, str | None]:
    """Give the states of a run's tasks."""
    return {task.task_id: task.state for task in system.client.task_instances(dag_id, run_id)}


def task_of(system: System, dag_id: str, run_id: str, task_id: str) -> TaskInstance:
    """Give one task of a run."""
    [task] = [task for task in system.client.task_instances(dag_id, run_id) if task.task_id == task_id]
    return task


def log_of(system: System, dag_id: str, run_id: str, task_id: str) -> str:
    """Give the log of a task's last try."""
    return "\n".join(system.client.task_log(dag_id, run_id, task_of(system, dag_id, run_id, task_id)))


def test_train_notice_reload(system: System, reader: Reader) -> None:
    """A trained model is noticed, delivered by one run, proved to be served, and remembered as live."""
    before = reader.last
    reloads, events = len(system.client.runs(RELOAD)), len(system.events("uci_housing donefile"))
    run_id = system.client.trigger("uci_housing_train", {"version": "spring", "epochs": 7, "seed": 77})
    system.client.wait_for_run("uci_housing_train", run_id, seconds=DEADLINE_SECONDS)
    uploaded = system.client.xcom("uci_housing_train", run_id, "upload_model")
    [reload] = system.wait_for_new_runs(RELOAD, reloads)
    result = system.client.xcom(RELOAD, reload.run_id, "reload_model")

    assert set(result) == RESULT
    assert result["changed"] is True
    assert result["confirmed"] is True
    assert result["sha256"] == uploaded["sha256"]
    assert result["donefile"]["content"]["version"] == "spring"
    assert result["release"].endswith("-spring")
    assert version_of(result["donefile"]) == version_of(uploaded["donefile"])
    assert {"look", "fetch", "stage", "publish", "confirm"} <= set(result["seconds"])
    answer = reader.last
    assert answer != before
    assert answer is not None
    assert answer.release == result["release"]

    new_events = system.events("uci_housing donefile")[events:]
    assert [version_of(event.extra["payload"]) for event in new_events] == [version_of(uploaded["donefile"])]
    assert new_events[0].created_runs == ((RELOAD, reload.run_id),)
    assert reload.run_type == "asset_triggered"
    live = system.asset_state("uci_housing live", "live")
    assert version_of(live["donefile"]) == version_of(uploaded["donefile"])
    assert (live["release"], live["sha256"]) == (result["release"], result["sha256"])


def test_live_asset_tells_changes_alone(system: System, reader: Reader) -> None:
    """Who listens to the live model is started once by each change, and by nothing that changed nothing."""
    deliver(system, reader)
    system.wait_until_quiet()
    heard, events = len(system.client.runs("live_listener")), len(system.events("uci_housing live"))

    run_id = system.client.trigger(RELOAD)
    system.client.wait_for_run(RELOAD, run_id, seconds=DEADLINE_SECONDS)
    assert system.client.xcom(RELOAD, run_id, "reload_model")["changed"] is False
    assert len(system.events("uci_housing live")) == events

    delivered = deliver(system, reader)
    [run] = system.wait_for_new_runs("live_listener", heard)
    system.wait_until_quiet()
    assert len(system.client.runs("live_listener")) == heard + 1
    [event] = system.events("uci_housing live")[events:]
    assert event.extra["release"] == delivered.result["release"]
    assert event.created_runs == (("live_listener", run.run_id),)


def test_mapped_task_tells_what_is_live(system: System) -> None:
    """A delivery by a mapped task is remembered by its asset's state, and told by its event, as any other is."""
    uploaded = system.upload(system.models[0].path, "/models/mapped")
    run_id = system.client.trigger("reload_mapped", {"remote_path": "/models/mapped"})
    system.client.wait_for_run("reload_mapped", run_id, seconds=DEADLINE_SECONDS)
    result = system.client.xcom("reload_mapped", run_id, "reload_model", map_index=0)
    [event] = system.client.asset_events("mapped live")
    live = system.asset_state("mapped live", "live")
    assert event.extra["release"] == live["release"] == result["release"]
    assert version_of(live["donefile"]) == uploaded.donefile


def test_whole_way_step_by_step(system: System, reader: Reader, tmp_path: Path) -> None:
    """A run trains and delivers in steps; a delivery that failed leaves the live model, and is tried again."""
    before = reader.last
    run_id = system.client.trigger(STEPS, {"version": "stepwise", "epochs": 5, "seed": 55})
    system.client.wait_for_run(STEPS, run_id, seconds=DEADLINE_SECONDS)
    uploaded = system.client.xcom(STEPS, run_id, "upload_model")
    published = system.client.xcom(STEPS, run_id, "publish_model")
    state = states(system, STEPS, run_id)
    assert state.pop("roll_back") == "skipped"
    assert set(state.values()) == {"success"}
    assert reader.last is not None
    assert reader.last != before
    assert reader.last.release == published["release"]
    assert published["release"].endswith("-stepwise")
    assert delivered_stepwise(system) == version_of(uploaded["donefile"])
    served = system.live(reader.last)

    # Nothing is new to the sensor now, until an upload comes of which half is lost.
    system.clear(STEPS, run_id, "wait_for_donefile")
    wait_until(lambda: "the donefile is unchanged" in sensor_log(system, run_id), "the sensor waiting")
    model = system.other_models(reader.last)[0]
    second = upload_losing_half(system, model)
    assert system.wait_for_end(STEPS, run_id).state == "failed"
    assert outcome(system, run_id) == ("failed", "upstream_failed", "skipped")
    assert "Corrupt: verifying" in log_of(system, STEPS, run_id, "download_model")
    assert system.live(reader.last) == served
    assert delivered_stepwise(system) == version_of(uploaded["donefile"])

    # The same donefile still is, since its model never became live.
    restore_lost_half(system)
    system.clear(STEPS, run_id, "wait_for_donefile")
    system.client.wait_for_run(STEPS, run_id, seconds=DEADLINE_SECONDS)
    assert outcome(system, run_id) == ("success", "success", "skipped")
    assert reader.last.price == model.price
    assert delivered_stepwise(system) == second.donefile

    system.upload(unloadable_model(system, tmp_path), STEPS_PATH)
    system.clear(STEPS, run_id, "wait_for_donefile")
    assert system.wait_for_end(STEPS, run_id).state == "failed"
    assert outcome(system, run_id) == ("success", "failed", "success")
    assert "ReloadRefused: " in log_of(system, STEPS, run_id, "confirm_reload")
    assert reader.last.price == model.price
    assert delivered_stepwise(system) == second.donefile


def outcome(system: System, run_id: str) -> tuple[str | None, str | None, str | None]:
    """Give the states of download, confirmation and roll-back."""
    state = states(system, STEPS, run_id)
    return state["download_model"], state["confirm_reload"], state["roll_back"]


def delivered_stepwise(system: System) -> DonefileVersion:
    """Give the donefile version that the state of the stepwise Dag's asset remembers."""
    return version_of(system.asset_state("uci_housing live, step by step", "live")["donefile"])


def sensor_log(system: System, run_id: str) -> str:
    """Give the log of the sensor's present try; nothing before it runs."""
    sensor = task_of(system, STEPS, run_id, "wait_for_donefile")
    return "\n".join(system.client.task_log(STEPS, run_id, sensor)) if sensor.state == "running" else ""


def upload_losing_half(system: System, model: Model) -> Uploaded:
    """Upload a model, of which half is lost before its donefile appears."""
    good = system.upload(model.path, "/models/elsewhere")
    whole = system.in_store("/models/elsewhere", ARCHIVE).read_bytes()
    with system.store() as store:
        store.write(f"{STEPS_PATH}/{ARCHIVE}", io.BytesIO(whole[: len(whole) // 2]))
        store.write(f"{STEPS_PATH}/donefile", io.BytesIO(json.dumps(dict(good.donefile.content)).encode()))
        donefile = store.donefile(f"{STEPS_PATH}/donefile")
    assert donefile is not None
    return Uploaded(good.model, good.moved, donefile)


def restore_lost_half(system: System) -> None:
    """Make the model in the store whole, and leave the donefile as it is."""
    whole = system.in_store("/models/elsewhere", ARCHIVE).read_bytes()
    with system.store() as store:
        store.write(f"{STEPS_PATH}/{ARCHIVE}", io.BytesIO(whole))


def unloadable_model(system: System, folder: Path) -> Path:
    """Make a model that arrives whole, but that no server can load."""
    model = folder / "uci_housing_model"
    shutil.copytree(system.models[0].path, model)
    (model / "model.json").write_text("{}")
    return model


def test_model_that_cannot_be_loaded(system: System, reader: Reader, tmp_path: Path) -> None:
    """A model that the server cannot load is taken back, and the one before goes on answering all the time."""
    before = deliver(system, reader)
    remembered = system.asset_state("uci_housing live", "live")
    system.upload(unloadable_model(system, tmp_path), "/faults/unloadable")
    run_id = system.client.trigger("reload_anything", {"remote_path": "/faults/unloadable"})
    assert system.wait_for_end("reload_anything", run_id).state == "failed"
    log = log_of(system, "reload_anything", run_id, "reload_model")
    print(f"\nunloadable: {message_of(log)}")  # noqa: T201 - shown with -s
    assert re.search(
        rf"ReloadRefused: .*failed to load .*rolled back to {before.answer.release}, which the server", log
    )
    assert {(answer.release, answer.price) for answer in list(reader.first_seen)[-2:]} == {
        (before.answer.release, before.answer.price)
    }
    assert system.host.model.readlink().name == before.answer.release
    assert system.asset_state("uci_housing live", "live") == remembered


def test_roll_back_by_the_button(system: System, reader: Reader) -> None:
    """The button alone returns to the release before; with a name it returns to that one."""
    first = deliver(system, reader)
    second = deliver(system, reader)
    assert second.result["previous_release"] == first.result["release"]

    back = rolled_back(system, {})
    assert (back["release"], back["previous_release"]) == (first.result["release"], second.result["release"])
    assert back["confirmed"] is True
    assert reader.last is not None
    assert (reader.last.release, reader.last.price) == (first.answer.release, first.answer.price)

    forth = rolled_back(system, {"release": second.result["release"]})
    assert (forth["release"], forth["previous_release"]) == (second.result["release"], first.result["release"])
    assert (reader.last.release, reader.last.price) == (second.answer.release, second.answer.price)


def rolled_back(system: System, form: dict[str, Any]) -> dict[str, Any]:
    """Trigger the roll-back, and give its result."""
    run_id = system.client.trigger("model_rollback", form)
    system.client.wait_for_run("model_rollback", run_id, seconds=DEADLINE_SECONDS)
    return dict(system.client.xcom("model_rollback", run_id, "roll_back"))


def test_roll_back_to_an_unknown_release(system: System, reader: Reader) -> None:
    """A release that is not there is refused, at once, with the names of those that are, and nothing moves."""
    delivered = deliver(system, reader)
    before = system.live(reader.last)
    run_id = system.client.trigger("model_rollback", {"release": "no-such-release"})
    assert system.wait_for_end("model_rollback", run_id).state == "failed"
    log = log_of(system, "model_rollback", run_id, "roll_back")
    assert "Refused: looking for the release 'no-such-release'" in log
    assert delivered.result["release"] in log
    assert task_of(system, "model_rollback", run_id, "roll_back").try_number == 1
    assert system.live(reader.last) == before


@pytest.mark.parametrize("value", ["../x", "..", ".", "/etc/passwd", "a/b", "a\\b", "", "a b", "{{ 1 }}", 7])
def test_forms_refuse_paths(system: System, value: object) -> None:
    """A form does not take a value that could lead anywhere."""
    for dag_id, field in (
        ("model_rollback", "release"),
        ("uci_housing_train", "version"),
        (STEPS, "version"),
        (RELOAD, "force"),
    ):
        with pytest.raises(AirflowError, match=r"was answered by 4\d\d"):
            system.client.trigger(dag_id, {field: value})


def test_ten_deliveries(system: System, reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ten uploads in a row are delivered by ten runs, and a client never misses an answer."""
    known = len(system.client.runs(RELOAD))
    seconds = []
    for _ in range(DELIVERIES):
        delivered = deliver(system, reader)
        assert delivered.result["changed"] is True
        assert delivered.result["confirmed"] is True
        assert delivered.answer.release == delivered.result["release"]
        changed = system.in_store(WATCHED, "donefile").stat().st_mtime
        seconds.append(round(reader.first_seen[delivered.answer] - changed, 3))
    assert len(system.client.runs(RELOAD)) == known + DELIVERIES
    assert reader.failures == []
    measured = {"median": statistics.median(seconds), "seconds": seconds, "requests": reader.sent}
    print(f"\nseconds from donefile to served: {measured}")  # noqa: T201 - a measurement, shown with -s
    with (tmp_path_factory.getbasetemp() / "measurements.jsonl").open("a") as file:
        file.write(json.dumps({"donefile to served": measured}) + "\n")


@pytest.mark.parametrize("donefile_format", ["json", "empty"])
def test_two_uploads_in_one_second(system: System, reader: Reader, donefile_format: DonefileFormat) -> None:
    """Of two uploads within one second, the last one ends up live."""
    first, last = system.other_models(reader.last)[:2]
    for _ in range(10):
        stamps = []
        for model in (first, last):
            uploaded = system.upload(model.path, donefile_format=donefile_format)
            stamps.append(int(system.in_store(WATCHED, "donefile").stat().st_mtime))
        if stamps[0] == stamps[1]:
            break
    assert stamps[0] == stamps[1], "ten pairs of uploads took more than a second each"
    system.wait_for_answer(reader, last)
    system.wait_until_announced(uploaded.donefile)
    system.wait_until_quiet()
    assert reader.last is not None
    assert reader.last.price == last.price
    live = system.asset_state("uci_housing live", "live")
    assert (live["release"], live["sha256"]) == (reader.last.release, uploaded.moved.sha256)


def test_restart_between_two_changes(system: System, reader: Reader) -> None:
    """When triggerer and scheduler crash between two changes of the donefile, none is lost and none repeated."""
    first = deliver(system, reader)
    system.wait_until_announced(first.uploaded.donefile)
    events, reloads = len(system.events("uci_housing donefile")), len(system.client.runs(RELOAD))
    system.airflow.restart("triggerer", kill=True)
    system.airflow.restart("scheduler", kill=True)
    second = deliver(system, reader)
    system.wait_until_announced(second.uploaded.donefile)
    system.wait_until_quiet()
    [event] = system.events("uci_housing donefile")[events:]
    assert version_of(event.extra["payload"]) == second.uploaded.donefile
    assert len(system.client.runs(RELOAD)) == reloads + 1


def test_change_while_the_triggerer_is_down(system: System, reader: Reader) -> None:
    """A change that nobody saw, since the triggerer had crashed, is noticed once it is back, and once only."""
    events, reloads = len(system.events("uci_housing donefile")), len(system.client.runs(RELOAD))
    model = system.other_models(reader.last)[0]
    system.airflow.stop("triggerer", kill=True)
    uploaded = system.upload(model.path)
    system.airflow.start("triggerer")
    system.wait_for_answer(reader, model)
    system.wait_for_new_runs(RELOAD, reloads)
    system.wait_until_announced(uploaded.donefile)
    system.wait_until_quiet()
    [event] = system.events("uci_housing donefile")[events:]
    assert version_of(event.extra["payload"]) == uploaded.donefile
    assert len(system.client.runs(RELOAD)) == reloads + 1


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with what should be delivered.

    :param prepare: puts it into the folder of the store.
    :param error: how the task's error begins, and how it goes on.
    :param tries: how often the task tries, if it may try twice.
    :param form: arguments for the task.
    """

    prepare: Callable[[System, Path, str], object]
    error: str
    tries: int
    form: dict[str, str]


def good_model(system: System, folder: Path, remote_path: str) -> Uploaded:
    """Upload a model as it should be."""
    return system.upload(system.models[0].path, remote_path)


def wrong_digest(system: System, folder: Path, remote_path: str) -> None:
    """Upload a model and a donefile that promises another one."""
    content = good_model(system, folder, remote_path).donefile.content
    with system.store() as store:
        store.write(f"{remote_path}/donefile", io.BytesIO(json.dumps({**content, "sha256": "0" * 64}).encode()))


def truncated_archive(system: System, folder: Path, remote_path: str) -> None:
    """Upload the first half of an archive, with a donefile that tells the half's own length and digest."""
    good_model(system, folder, remote_path)
    whole = system.in_store(remote_path, ARCHIVE).read_bytes()
    (folder / ARCHIVE).write_bytes(whole[: len(whole) // 2])
    system.upload(folder / ARCHIVE, remote_path)


def escaping_archive(system: System, folder: Path, remote_path: str) -> None:
    """Upload a model with one file too many."""
    with tarfile.open(folder / ARCHIVE, "w:gz") as archive:
        archive.add(system.models[0].path, "uci_housing_model")
        archive.addfile(tarfile.TarInfo("uci_housing_model/../../escaped"))
    system.upload(folder / ARCHIVE, remote_path)


def no_model(system: System, folder: Path, remote_path: str) -> None:
    """Upload a donefile alone."""
    with system.store() as store:
        store.write(f"{remote_path}/donefile", io.BytesIO(b""))


def nothing(system: System, folder: Path, remote_path: str) -> None:
    """Upload nothing."""


FAULTS = {
    "wrong-digest": Fault(wrong_digest, r"Corrupt: verifying .*its sha256 is .*but the donefile says 0{64}", 1, {}),
    "truncated-archive": Fault(truncated_archive, r"Corrupt: unpacking .*damaged.*upload it again", 1, {}),
    "escaping-archive": Fault(escaping_archive, r"Refused: unpacking .*escaped", 1, {}),
    "missing-folder": Fault(
        good_model,
        r"Refused: looking for the folder 'renamed' \(unpacked_filename\) in .*there is 'uci_housing_model'",
        1,
        {"unpacked_filename": "renamed"},
    ),
    "missing-model": Fault(no_model, r"NotThereYet: .*uci_housing\.tar\.gz.*404", 2, {}),
    "wrong-password": Fault(
        nothing, r"Refused: .*401.*login and password", 1, {"conn_id": "guarded_store_wrong_password"}
    ),
    "unreachable-host": Fault(
        nothing, r"StoreUnreachable: .*cannot be reached.*host and port", 2, {"conn_id": "unreachable_store"}
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_moves_nothing(system: System, reader: Reader, tmp_path: Path, name: str) -> None:
    """A fault fails the task with its reason, is retried only if that can help, and leaves what is live."""
    fault = FAULTS[name]
    remote_path = f"/faults/{name}"
    fault.prepare(system, tmp_path, remote_path)
    before = system.live(reader.last)
    run_id = system.client.trigger("reload_anything", {"remote_path": remote_path, **fault.form})
    assert system.wait_for_end("reload_anything", run_id).state == "failed"
    task = task_of(system, "reload_anything", run_id, "reload_model")
    log = log_of(system, "reload_anything", run_id, "reload_model")
    print(f"\n{name}: tries {task.try_number}: {message_of(log)}")  # noqa: T201 - shown with -s
    assert (task.state, task.try_number) == ("failed", fault.tries)
    assert re.search(fault.error, log), log
    system.wait_for_server_passes(2)
    assert system.live(reader.last) == before
    assert len(reader.first_seen) == 1, "the same model answers since the test began"
    assert list(system.host.serving_path.rglob("escaped")) == []
    assert list((system.host.serving_path / "_serving_monitor_tmp").glob("*.staging-*")) == []


def test_delivery_that_is_told_to_end_is_tried_again(system: System, reader: Reader) -> None:
    """A delivery that is told to end, as by a worker that is shut down, is tried again by its retries."""
    model = system.other_models(reader.last)[0]
    system.upload(model.path, "/models/interrupted")
    releases = Releases(system.host.model.parent, system.host.model.name)

    def task() -> TaskInstance:
        return task_of(system, "reload_anything", run_id, "reload_model")

    with releases.delivering():
        run_id = system.client.trigger("reload_anything", {"remote_path": "/models/interrupted"})
        wait_until(lambda: task().state == "running", "a task that delivers")
        waiting = "waiting for another delivery"
        wait_until(lambda: waiting in log_of(system, "reload_anything", run_id, "reload_model"), waiting)
        pid = task().pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: task().try_number == 2 and task().state == "running", "another try")
    assert system.wait_for_end("reload_anything", run_id).state == "success"
    system.wait_for_answer(reader, model)


def message_of(log: str) -> str:
    """Give the line of a log with the fault."""
    names = ("Refused", "Corrupt", "NotThereYet", "StoreUnreachable", "PublicationFailed", "ReloadRefused")
    return next((line.strip() for line in log.splitlines() if line.strip().startswith(names)), log)


def test_both_sensors_see_the_same(system: System, reader: Reader) -> None:
    """A sensor that pokes and one that waits in the triggerer both see a new donefile, and return the same."""
    remote_path = "/models/sensed"
    known = system.upload(system.models[0].path, remote_path)
    form = {"remote_path": remote_path, "last_seen": known.donefile.to_dict()}
    run_id = system.client.trigger("wait_for_donefile", form)

    def waiting() -> bool:
        found = states(system, "wait_for_donefile", run_id)
        if (found["poked"], found["deferred"]) != ("running", "deferred"):
            return False
        return "the donefile is unchanged" in log_of(system, "wait_for_donefile", run_id, "poked")

    wait_until(waiting, "one sensor poking and one deferred")
    new = system.upload(system.models[1].path, remote_path)
    system.client.wait_for_run("wait_for_donefile", run_id, seconds=DEADLINE_SECONDS)
    poked, deferred = (system.client.xcom("wait_for_donefile", run_id, task_id) for task_id in ("poked", "deferred"))
    assert poked == deferred
    assert version_of(poked) == new.donefile
    assert poked["content"]["sha256"] == new.moved.sha256


def test_no_password_is_written_down(system: System, reader: Reader) -> None:
    """No password is in a log, a rendered field, an XCom or the database, whatever worked with it or failed."""
    model = system.other_models(reader.last)[0]
    known = len(system.client.runs("guarded_reload"))
    upload_id = system.client.trigger("guarded_upload", {"model": str(model.path)})
    system.client.wait_for_run("guarded_upload", upload_id, seconds=DEADLINE_SECONDS)
    system.wait_for_answer(reader, model)
    [reload] = system.wait_for_new_runs("guarded_reload", known)
    runs = [("guarded_upload", upload_id), ("guarded_reload", reload.run_id)]
    uploaded = system.client.xcom("guarded_upload", upload_id, "upload_model")
    for conn_id in ("guarded_store", "guarded_store_wrong_password"):
        arguments = {"conn_id": conn_id, "remote_path": "/models/guarded"}
        runs += [
            (dag_id, system.client.trigger(dag_id, arguments)) for dag_id in ("reload_anything", "wait_for_donefile")
        ]
    for dag_id, run_id in runs:
        system.wait_for_end(dag_id, run_id)
    assert [system.client.run(*run).state for run in runs] == [*["success"] * 4, *["failed"] * 2]
    assert uploaded["sha256"] == system.client.xcom("guarded_reload", reload.run_id, "reload_model")["sha256"]

    written = dict(files_of(system.airflow.home))
    assert any(name.endswith("output/triggerer.log") for name in written)
    assert any("dag_id=guarded_upload" in name for name in written)
    for dag_id, run_id in runs:
        for task in system.client.task_instances(dag_id, run_id):
            path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}"
            rendered = system.get(path)
            assert rendered["rendered_fields"]["conn_id"].startswith("guarded_store")
            written[path] = json.dumps(rendered).encode()
            for entry in system.get(f"{path}/xcomEntries")["xcom_entries"]:
                value = system.client.xcom(dag_id, run_id, task.task_id, key=entry["key"])
                written[f"{path}/xcomEntries/{entry['key']}"] = json.dumps(value).encode()

    def where(text: bytes) -> list[str]:
        return [name for name, content in written.items() if text in content]

    assert where(system.guarded_store.url.encode()), "what stands beside the password is found"
    assert any("xcomEntries/return_value" in name for name in where(uploaded["sha256"].encode()))
    for form in forms_of(system.guarded_store.password, system.guarded_store.wrong_password):
        assert where(form) == []


def test_example_of_the_document_on_hdfs(system: System, reader: Reader) -> None:
    """Both halves of the document's example run by the Hadoop client, again and again, and no log shows `fs_ugi`."""
    store = system.hadoop_store
    for seed in (101, 102):
        before = reader.last
        run_id = system.client.trigger("uci_housing_hdfs", {"epochs": 3, "seed": seed})
        system.client.wait_for_run("uci_housing_hdfs", run_id, seconds=2 * DEADLINE_SECONDS)
        result = system.client.xcom("uci_housing_hdfs", run_id, "reload_model")
        assert (result["changed"], result["confirmed"]) == (True, True)
        assert reader.last is not None
        assert reader.last != before
        assert reader.last.release == result["release"]
        found = {name: facts["length"] for name, facts in store.hdfs.administrator.list("/", status=True)}
        assert found == {"donefile": 0, "uci_housing.tar.gz": result["bytes"]}
        for task in ("upload_model", "wait_for_donefile", "reload_model"):
            assert store.password not in log_of(system, "uci_housing_hdfs", run_id, task)


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Give all files below a folder: logs and the database."""
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            yield str(file), file.read_bytes()


def forms_of(*passwords: str) -> list[bytes]:
    """Give what passwords look like in plain words, in an address, and in a header."""
    forms = []
    for password in passwords:
        forms += [password.encode(), quote(password, safe="").encode(), quote(password).encode()]
        forms.append(base64.b64encode(f"trainer:{password}".encode()).rstrip(b"="))
    return forms
