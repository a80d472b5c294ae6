"""The operators, run with a bare context as anyone could from a script."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_serving_reload.delivery import filesystem
from airflow_serving_reload.delivery.errors import (
    Corrupt,
    DeliveryError,
    NotThereYet,
    PublicationFailed,
    Refused,
    ReloadRefused,
    StoreUnreachable,
)
from airflow_serving_reload.delivery.release import Releases
from airflow_serving_reload.operators import (
    DownloadModelOperator,
    PaddleServer,
    PublishModelOperator,
    ReloadModelOperator,
    RollbackModelOperator,
    TouchTimestampOperator,
    UnpackModelOperator,
    UploadModelOperator,
)
from airflow_serving_reload.sensors import ReloadConfirmedSensor
from tests.delivery.models import contents
from tests.servers.bench import wait_until

from .conftest import LIVE, AssetState, context_with, served


def reload(workplace, **arguments):
    """Deliver the model in one task."""
    arguments = {**workplace.remote, **workplace.local, "unpacked_filename": "trained", **arguments}
    return ReloadModelOperator(task_id="reload", **arguments).execute({})


def test_upload_tells_what_it_uploaded(workplace):
    """An upload returns name, size and digest of what is in the store, and the donefile carries the same."""
    uploaded = workplace.upload("v1")
    packed = (workplace.store / "models/model.tar.gz").read_bytes()
    announced = json.loads((workplace.store / "models/donefile").read_text())
    assert uploaded["model"] == announced["model"] == "model.tar.gz"
    assert uploaded["bytes"] == announced["size"] == len(packed)
    assert uploaded["sha256"] == announced["sha256"] == hashlib.sha256(packed).hexdigest()
    assert announced["version"] == "v1"
    assert uploaded["donefile"]["content"] == announced


def test_upload_with_an_empty_donefile(workplace):
    """The seed's empty donefile can be written, and a model with it is delivered."""
    workplace.upload("v1", donefile_format="empty")
    assert (workplace.store / "models/donefile").read_bytes() == b""
    assert reload(workplace)["changed"]
    assert workplace.live_weights() == "v1"


@pytest.mark.parametrize("version", [None, "", "None"])
def test_upload_without_a_version(workplace, version):
    """A version that a template made of nothing is absent: the model is called by the time of its upload."""
    content = workplace.upload("v1", version=version)["donefile"]["content"]
    assert content["version"] == content["created"]


def test_upload_of_what_is_not_there(workplace):
    """A model that does not exist is refused, and no donefile is written."""
    with pytest.raises(Refused, match="no such file or folder"):
        UploadModelOperator(task_id="u", local_model_path="/no/such", **workplace.remote).execute({})
    assert not (workplace.store / "models/donefile").exists()


@pytest.mark.parametrize("name", ["model.tar.gz", "model"])
def test_upload_of_an_empty_folder(workplace, name):
    """A folder without any file is refused before anything is sent or removed, so that the last model stays."""
    workplace.upload("v1", remote_model_name=name)
    before = contents(workplace.store)
    (workplace.model / "weights").unlink()
    (workplace.model / "below").mkdir()
    with pytest.raises(Refused, match="there is no file in it"):
        UploadModelOperator(
            task_id="u", local_model_path=str(workplace.model), **{**workplace.remote, "remote_model_name": name}
        ).execute({})
    assert contents(workplace.store) == before


def test_publishing_is_tried_again(workplace, monkeypatch):
    """A publication that fails gives the unpacked model back, so that a retry of its task finds it."""
    workplace.upload("v1")
    packed = DownloadModelOperator(task_id="d", **workplace.remote, local_path=str(workplace.serving)).execute({})
    unpacked = UnpackModelOperator(task_id="u", packed_path=packed, unpacked_filename="trained").execute({})
    publish = PublishModelOperator(task_id="p", unpacked_path=unpacked, **workplace.local)

    def no_space(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "exchange", no_space)
        patch.setattr(filesystem, "replace_with_copy", no_space)
        with pytest.raises(PublicationFailed, match="No space left"):
            publish.execute({})
    assert workplace.live_weights() == "initial"
    published = publish.execute({})
    assert (published["changed"], workplace.live_weights()) == (True, "v1")
    assert published["sha256"]


def test_publishing_is_tried_again_by_its_run(workplace):
    """A task that publishes, and dies before Airflow knows that it did, comes to the same end when it is retried."""
    context = {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="p")}
    unpacked = workplace.serving / "unpacked"
    unpacked.mkdir()
    (unpacked / "weights").write_text("v1")
    publish = PublishModelOperator(task_id="p", unpacked_path=str(unpacked), **workplace.local)
    release = publish.execute(context)["release"]
    assert publish.execute(context)["release"] == release
    assert workplace.live_weights() == "v1"
    RollbackModelOperator(task_id="r", **workplace.local).execute({})
    with pytest.raises(Refused, match="unpack it first"):
        publish.execute(context)
    assert workplace.live_weights() == "initial"


def test_a_file_of_somebody_else_beside_the_model(workplace):
    """What lies beside a model that is published, whatever its name, is neither read nor removed."""
    neighbour = workplace.model.with_name("trained.json")
    neighbour.write_text('{"inputs": ["x"]}')
    (workplace.model / "weights").write_text("v1")
    PublishModelOperator(task_id="p", unpacked_path=str(workplace.model), **workplace.local).execute({})
    assert (workplace.live_weights(), neighbour.exists()) == ("v1", True)


def test_reload_gives_the_documented_dict(workplace):
    """A delivery returns exactly the documented keys, as values that JSON can carry."""
    uploaded = workplace.upload("v1")
    outcome = reload(workplace)
    assert set(outcome) == {
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
    assert outcome["changed"]
    assert outcome["sha256"] == uploaded["sha256"]
    assert outcome["previous_release"].endswith("adopted")
    assert not outcome["confirmed"]
    assert json.loads(json.dumps(outcome)) == outcome
    assert workplace.live_weights() == "v1"


def test_reload_is_idempotent(workplace):
    """Delivering the same donefile again changes nothing, unless it is forced."""
    workplace.upload("v1")
    first = reload(workplace)
    again = reload(workplace)
    assert not again["changed"]
    assert again["release"] == first["release"]
    forced = reload(workplace, force="{{ true }}".strip("{ }"))
    assert forced["changed"]
    assert forced["release"] != first["release"]


@pytest.mark.parametrize("no_archive", [None, "", "None"])
def test_folder_model(workplace, no_archive):
    """A model that is a folder in the store is uploaded and delivered file by file, without what it lost."""
    folder = {"remote_model_name": "model"}
    (workplace.model / "gone in v2").write_text("x")
    workplace.upload("v1", **folder)
    reload(workplace, unpacked_filename=no_archive, **folder)
    assert (workplace.serving / "model/gone in v2").exists()
    (workplace.model / "gone in v2").unlink()
    uploaded = workplace.upload("v2", **folder)
    outcome = reload(workplace, unpacked_filename=no_archive, **folder)
    assert outcome["sha256"] == uploaded["sha256"]
    assert workplace.live_weights() == "v2"
    assert not (workplace.serving / "model/gone in v2").exists()


def test_step_by_step(workplace):
    """The four steps, handing each other paths, make the model live and then ask the server to reload."""
    donefile = workplace.upload("v1")["donefile"]
    timestamp = workplace.serving / "model/fluid_time_file"
    before = timestamp.stat().st_mtime_ns
    packed = DownloadModelOperator(
        task_id="d", **workplace.remote, local_path=str(workplace.serving), donefile=donefile
    ).execute({})
    unpacked = UnpackModelOperator(task_id="u", packed_path=packed, unpacked_filename="trained").execute({})
    assert workplace.live_weights() == "initial"
    published = PublishModelOperator(task_id="p", unpacked_path=unpacked, **workplace.local).execute({})
    assert workplace.live_weights() == "v1"
    assert published["donefile"] == donefile
    assert timestamp.stat().st_mtime_ns == before, "publishing alone must not make the server reload"
    touched = TouchTimestampOperator(task_id="t", **workplace.local).execute({})
    assert int(touched) > before // 10**9
    assert timestamp.stat().st_mtime == pytest.approx(touched, abs=1e-5)
    assert not reload(workplace)["changed"], "the release remembers its donefile"


def test_releases_are_published_and_kept_as_asked_for(workplace):
    """Both ways to publish honour the mode and the number of releases that they were given."""
    kept = {"publish_mode": "in_place", "keep_releases": 2}
    releases = workplace.serving / ".model.releases"
    local = {**workplace.local, **kept}
    for number in range(4):
        workplace.upload(f"v{number}")
        reload(workplace, **kept)
    assert not (workplace.serving / "model").is_symlink()
    assert len([path for path in releases.iterdir() if path.is_dir()]) == 2
    for number in range(2):
        unpacked = workplace.serving / f"unpacked-{number}"
        unpacked.mkdir()
        (unpacked / "weights").write_text(f"step {number}")
        PublishModelOperator(task_id="p", unpacked_path=str(unpacked), **local).execute({})
    assert (workplace.live_weights(), (workplace.serving / "model").is_symlink()) == ("step 1", False)
    assert len([path for path in releases.iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("step_by_step", [False, True])
def test_archives_are_bounded_by_the_configuration(workplace, monkeypatch, step_by_step):
    """An archive with more members than the configuration lets through is refused by each operator that unpacks."""
    monkeypatch.setenv("AIRFLOW__SERVING_RELOAD__MAX_MEMBERS", "1")
    workplace.upload("v1")
    archive = str(workplace.store / "models/model.tar.gz")
    unpack = UnpackModelOperator(task_id="u", packed_path=archive, unpacked_filename="trained")
    with pytest.raises(Refused, match="members"):
        unpack.execute({}) if step_by_step else reload(workplace)
    assert workplace.live_weights() == "initial"


def test_steps_out_of_order(workplace):
    """A step whose predecessor did not run on this host says so."""
    missing = str(workplace.serving / "nothing")
    for operator in (
        UnpackModelOperator(task_id="u", packed_path=missing, unpacked_filename="trained"),
        PublishModelOperator(task_id="p", unpacked_path=missing, **workplace.local),
        TouchTimestampOperator(task_id="t", local_path=missing, local_model_name="model"),
    ):
        with pytest.raises(Refused, match=r"first|publish one"):
            operator.execute({})


@pytest.mark.parametrize("absent", [None, "", "None"])
def test_roll_back(workplace, absent):
    """One roll-back returns to the release before, and the one given up is not delivered again by its old donefile."""
    for version in ("v1", "v2"):
        workplace.upload(version)
        reload(workplace)
    back = RollbackModelOperator(task_id="b", **workplace.local, release=absent).execute({})
    assert back["changed"]
    assert workplace.live_weights() == "v1"
    assert not reload(workplace)["changed"]
    assert workplace.live_weights() == "v1"
    workplace.upload("v3")
    assert reload(workplace)["changed"]
    assert workplace.live_weights() == "v3"


def test_roll_back_to_a_named_release(workplace):
    """A roll-back goes to the release it is told, and to nothing that is none, whatever path its name spells."""
    workplace.upload("v1")
    adopted = reload(workplace)["previous_release"]
    for name in ("no-such", "../../etc", "."):
        with pytest.raises(Refused, match="there is none"):
            RollbackModelOperator(task_id="b", **workplace.local, release=name).execute({})
    assert workplace.live_weights() == "v1"
    RollbackModelOperator(task_id="b", **workplace.local, release=adopted).execute({})
    assert workplace.live_weights() == "initial"


@pytest.mark.parametrize(
    "arguments",
    [
        {"remote_model_name": "../model.tar.gz"},
        {"remote_donefile_name": "../donefile"},
        {"local_model_name": "../other"},
        {"local_model_name": "/etc"},
        {"local_timestamp_file": "../fluid_time_file"},
        {"unpacked_filename": "../trained"},
    ],
)
def test_names_stay_in_their_folders(workplace, arguments):
    """A name that would lead out of its folder is refused, and what is live stays."""
    workplace.upload("v1")
    with pytest.raises(Refused):
        reload(workplace, **arguments)
    assert workplace.live_weights() == "initial"


@pytest.mark.parametrize(
    ("fault", "action"),
    [
        (Refused("x"), RetryAction.FAIL),
        (Corrupt("x"), RetryAction.FAIL),
        (NotThereYet("x"), RetryAction.DEFAULT),
        (StoreUnreachable("x"), RetryAction.DEFAULT),
        (PublicationFailed("x"), RetryAction.DEFAULT),
        (ReloadRefused("x"), RetryAction.DEFAULT),
    ],
)
def test_what_is_retried(fault, action):
    """Refused and corrupt fail at once; everything else is retried as the Dag says."""
    assert isinstance(fault, DeliveryError)
    policy = UnpackModelOperator(task_id="u", packed_path="p", unpacked_filename="f").retry_policy
    assert policy.evaluate(fault, try_number=1, max_tries=3).action is action


def test_refused_reload_is_not_tried_for_long():
    """A model that its server refuses is put before it in three tries, however many the Dag allows."""
    policy = UnpackModelOperator(task_id="u", packed_path="p", unpacked_filename="f").retry_policy
    for fault, actions in (
        (ReloadRefused("x"), [RetryAction.DEFAULT] * 2 + [RetryAction.FAIL] * 2),
        (StoreUnreachable("x"), [RetryAction.DEFAULT] * 4),
    ):
        assert [policy.evaluate(fault, try_number=number, max_tries=10).action for number in (1, 2, 3, 4)] == actions


def test_own_retry_policy_wins():
    """Whoever gives a retry policy of their own gets it."""
    from airflow.sdk import ExceptionRetryPolicy

    own = ExceptionRetryPolicy(rules=[])
    assert (
        UnpackModelOperator(task_id="u", packed_path="p", unpacked_filename="f", retry_policy=own).retry_policy is own
    )


@pytest.mark.parametrize(
    "operator",
    [
        DownloadModelOperator,
        PublishModelOperator,
        ReloadModelOperator,
        RollbackModelOperator,
        TouchTimestampOperator,
        UnpackModelOperator,
        UploadModelOperator,
    ],
)
def test_paths_names_and_connections_are_templates(operator):
    """Every path, name and connection id of an operator is a template field, documented as such."""
    import inspect

    names = [
        name
        for name in inspect.signature(operator.__init__).parameters
        if name.endswith(
            ("_path", "_name", "_file", "_filename", "conn_id", "release", "donefile", "server", "version")
        )
    ]
    assert set(names) <= set(operator.template_fields)
    assert all(f":param {name}:" in operator.__doc__ for name in names)


def test_server_is_rendered(workplace):
    """The fields of a server description are rendered like those of the operator that carries it."""
    operator = ReloadModelOperator(
        task_id="r",
        **workplace.remote,
        **workplace.local,
        server=PaddleServer(log_path="/logs/{{ host }}.INFO", probe_url="http://{{ host }}/"),
    )
    operator.render_template_fields({"host": "h1"})
    assert operator.server == PaddleServer(log_path="/logs/h1.INFO", probe_url="http://h1/")


def test_state_tells_the_donefile_that_was_dealt_with(workplace):
    """After a roll-back, a delivery that has nothing to do leaves no donefile for the sensor to wait in vain for."""
    state = AssetState()
    context = context_with(state)
    arguments = {**workplace.remote, **workplace.local, "unpacked_filename": "trained", "model_asset": LIVE}
    for version in ("v1", "v2"):
        last = workplace.upload(version)["donefile"]
        ReloadModelOperator(task_id="reload", **arguments).execute(context)
    RollbackModelOperator(task_id="b", **workplace.local).execute({})
    again = ReloadModelOperator(task_id="reload", **arguments).execute(context)
    assert (again["changed"], workplace.live_weights()) == (False, "v1")
    assert state.state["live"]["donefile"] == last
    assert state.state["live"]["release"] == again["release"]


def test_change_is_announced_by_the_try_behind_it(workplace):
    """Where a task ended behind its publication and before its success, its next try tells of the change, others not.

    Airflow has an event for each outlet of a task that succeeded.
    """
    workplace.upload("v1")

    def deliver(state, run_id):
        task = ReloadModelOperator(
            task_id="reload", **workplace.remote, **workplace.local, unpacked_filename="trained", model_asset=LIVE
        )
        instance = SimpleNamespace(dag_id="dag", run_id=run_id, task_id="reload")
        return task.execute({**context_with(state), "ti": instance})["changed"], task.outlets

    class Unreachable(AssetState):
        def set(self, key, value):
            raise ConnectionError

    with pytest.raises(ConnectionError):
        deliver(Unreachable(), "run 1")
    assert workplace.live_weights() == "v1"
    state = AssetState()
    assert deliver(state, "run 1") == (False, [LIVE])
    assert state.state["live"]["release"]
    assert deliver(state, "run 2") == (False, [])


def test_asset_is_an_outlet():
    """The asset of the live model is an outlet, so that its state and its events can be written."""
    operator = TouchTimestampOperator(task_id="t", local_path="p", local_model_name="m", model_asset=LIVE)
    assert operator.outlets == [LIVE]


def test_log_is_grouped_by_stages(workplace, engine_log):
    """Airflow's page can fold the log by the stages of a delivery, each with its seconds, and of a roll-back."""
    workplace.upload("v1")
    reload(workplace)
    stages = [message.removeprefix("::group::") for message in engine_log.messages if message.startswith("::group::")]
    assert stages == ["Look", "Fetch", "Stage", "Publish", "Confirm"]
    assert engine_log.messages.count("::endgroup::") == len(stages)
    assert any(re.fullmatch(r"fetch: \d+\.\d\d s", message) for message in engine_log.messages)
    engine_log.clear()
    RollbackModelOperator(task_id="back", **workplace.local).execute({})
    assert next(message for message in engine_log.messages if "group" in message) == "::group::Publish"


def test_killed_task_puts_back_what_worked(workplace, tmp_path):
    """A task that Airflow tells to end before its model is proved leaves the old one live, as its server says, too."""
    workplace.upload("v1")
    log = tmp_path / "serving.INFO"
    log.touch()
    operator = ReloadModelOperator(
        task_id="reload",
        **workplace.remote,
        **workplace.local,
        unpacked_filename="trained",
        server=PaddleServer(log_path=str(log)),
    )

    def end_it():
        wait_until(lambda: workplace.live_weights() == "v1", "the new model, live and not proved")
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: workplace.live_weights() == "initial", "the old model")
        # a further signal does no harm
        os.kill(os.getpid(), signal.SIGTERM)
        with log.open("a") as lines:
            lines.write(served())

    # as Airflow's task runner does
    before = signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    try:
        with ThreadPoolExecutor(1) as threads:
            ending = threads.submit(end_it)
            # which Airflow, unlike its own AirflowTaskTerminated, lets a task try again
            with pytest.raises(SystemExit, match="before its model was proved"):
                operator.execute({})
            ending.result()
        operator.on_kill()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert workplace.live_weights() == "initial"
    [delivered] = [each for each in Releases(workplace.serving, "model").history() if each.origin == "delivered"]
    assert delivered.confirmed is None
    assert reload(workplace)["changed"]
    assert workplace.live_weights() == "v1"


def test_unknown_connection(workplace):
    """A connection that does not exist is named in the error."""
    with pytest.raises(AirflowNotFoundException, match="no_such"):
        reload(workplace, conn_id="no_such")


def test_connection_without_a_store(workplace, monkeypatch):
    """A connection type without a store is refused with the types that have one."""
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "postgres", "host": "127.0.0.1"}))
    with pytest.raises(Refused, match=r"'postgres'.*fs, ftp, .* or webhdfs"):
        reload(workplace, conn_id="other")


def test_confirming_nothing_in_particular():
    """A confirmation that says neither which release nor since when is refused when the Dag is read."""
    with pytest.raises(Refused, match="neither release nor since"):
        ReloadConfirmedSensor(task_id="c", server=PaddleServer(log_path="x"))


def test_donefile_from_a_template_may_be_json(workplace):
    """A donefile version may come as text, as a template gives it, with or without `tojson`; nonsense is refused."""
    donefile = workplace.upload("v1")["donefile"]
    assert reload(workplace, donefile=json.dumps(donefile))["changed"]
    assert not reload(workplace, donefile=str(donefile))["changed"]
    with pytest.raises(Refused, match="donefile version"):
        reload(workplace, donefile="nonsense")
