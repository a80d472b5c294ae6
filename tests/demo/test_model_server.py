"""The embedded model server, seen from outside: its answers, its log, and Paddle Serving's reload contract."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
import requests

from airflow_serving_reload.demo import housing, paddle_model
from airflow_serving_reload.demo.glog import GlogFile
from airflow_serving_reload.demo.reload import EngineDescription, ReloadableEngine, StartError
from airflow_serving_reload.demo.settings import SettingsError, settings_from

from .running import DEADLINE_SECONDS, LiveModel, Servers, command, publish_release, set_mtime, wait_until

# Whole seconds since the epoch, far enough apart for each test to move on from its own.
EPOCHS = itertools.count(1_700_000_000, 1000)

NOISE = [
    "I Begin reload framework...",
    "W Succ reload version engine: 18446744073709551615",
    "I Finish reload 1 workflow(s)",
]
AFTER_A_FAILED_LOAD = [
    "E Failed reload engine model: 0",
    "E Failed reload version engine: 18446744073709551615",
    "E Failed reload engine, name: GeneralInferOp_0",
    "E Failed reload infer manager",
    "E Failed reload resource!",
    "I Finish reload 1 workflow(s)",
]


@pytest.fixture(scope="module")
def served(servers: Servers, trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> LiveModel:
    """Serve one model for the whole module: a server takes a second to start."""
    model = LiveModel(tmp_path_factory.mktemp("served"), trained)
    model.publish("seed-1", timestamp=next(EPOCHS))
    model.serve(servers, reload_interval=0.05)
    return model


@pytest.fixture
def epoch() -> int:
    """Return a whole second that no other test uses: the timestamp of the first model."""
    return next(EPOCHS)


@pytest.fixture
def live(served: LiveModel, epoch: int) -> LiveModel:
    """Return the server, answering with the model ``seed-1`` that was published with the timestamp ``epoch``."""
    release = served.publish("seed-1", timestamp=epoch)
    wait_until(lambda: served.serves(release), f"{release} served")
    return served


@pytest.fixture(scope="module")
def prices(trained: dict[str, Path]) -> dict[str, float]:
    """Return what each model makes of the sample house, computed by Paddle's own loader."""
    return {name: expected_price(path, housing.SAMPLE_HOUSE) for name, path in trained.items()}


def expected_price(model: Path, house: tuple[float, ...] | list[float]) -> float:
    """Compute a price with Paddle's own loader of saved models."""
    x = np.array([housing.normalise(house)], dtype=np.float32)
    return float(paddle.jit.load(str(model / "model"))(paddle.to_tensor(x)).numpy().item())


def save_linear_model(folder: Path, features: int, *, old_format: bool = False) -> None:
    """Write an untrained linear model that takes some number of features."""
    feed = paddle.static.InputSpec([None, features], "float32", "x")
    layer = paddle.jit.to_static(paddle.nn.Linear(features, 1), input_spec=[feed], full_graph=True)
    with paddle.pir_utils.OldIrGuard() if old_format else nullcontext():
        paddle.jit.save(layer, str(folder / "model"))


# Answers


def test_probe_answers_for_the_sample_house(live: LiveModel, epoch: int, prices: dict[str, float]) -> None:
    """A GET answers with the price of the sample house, the release and the timestamp of the load."""
    release = live.path.resolve().name

    assert live.answer() == {"price": pytest.approx(prices["seed-1"]), "release": release, "timestamp": epoch}


def test_raw_features_are_normalised(live: LiveModel, trained: dict[str, Path]) -> None:
    """A POST of raw features answers with the price that the model gives for the normalised ones."""
    house = housing.features_and_prices()[0][200]

    response = live.post(json.dumps({"x": house}))

    assert response.status_code == 200
    assert response.json()["price"] == pytest.approx(expected_price(trained["seed-1"], house), rel=1e-5)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"x": [1, 2', "found a body that is not JSON"),
        (b"\xff\xfe", "found a body that is not JSON"),
        ("[1, 2]", 'found no list under "x"'),
        ('{"y": [1]}', 'found no list under "x"'),
        (json.dumps({"x": [1.0] * 12}), 'found 12 values under "x"'),
        (json.dumps({"x": [1.0] * 14}), 'found 14 values under "x"'),
        (json.dumps({"x": [1.0] * 12 + ["4"]}), 'found "4" for LSTAT'),
        (json.dumps({"x": [True] + [1.0] * 12}), "found true for CRIM"),
        (json.dumps({"x": [1.0] * 12 + [float("nan")]}), "found NaN for LSTAT"),
        (json.dumps({"x": [10**400] + [1.0] * 12}), "for CRIM"),
    ],
)
def test_bad_input_is_explained(live: LiveModel, body: str | bytes, found: str) -> None:
    """A request without 13 finite numbers gets a 400 that says what was found and what is wanted."""
    response = live.post(body)

    assert response.status_code == 400
    assert found in response.json()["error"]
    assert 'wanted: {"x": [13 numbers]}' in response.json()["error"]


def test_model_that_cannot_predict_is_an_error(live: LiveModel, epoch: int, tmp_path: Path) -> None:
    """A model that loads but takes other features answers 500 with the reason, as the load itself succeeds."""
    save_linear_model(tmp_path, 12)
    publish_release(tmp_path, live.path.parent / f"twelve-{epoch}", live.path, timestamp=epoch + 1)
    probe = live.url

    wait_until(lambda: requests.get(probe, timeout=DEADLINE_SECONDS).status_code == 500, "status 500")

    assert "cannot predict from 13 features" in requests.get(probe, timeout=DEADLINE_SECONDS).json()["error"]


# When a model is loaded


def test_change_within_the_same_second_is_not_seen(live: LiveModel, epoch: int) -> None:
    """Timestamps are compared in whole seconds: a later fraction of the same second loads nothing."""
    before = live.answer()
    live.publish("seed-2", timestamp=epoch + 0.999)
    live.wait_for_passes(3)

    assert live.answer() == before


def test_next_whole_second_is_seen(live: LiveModel, epoch: int, prices: dict[str, float]) -> None:
    """A timestamp one whole second later loads the model that lies there."""
    release = live.publish("seed-2", timestamp=epoch + 1)

    wait_until(lambda: live.serves(release), f"{release} served")

    assert live.answer() == {
        "price": pytest.approx(prices["seed-2"]), "release": release, "timestamp": epoch + 1
    }  # fmt: skip


def test_older_timestamp_is_seen(live: LiveModel, epoch: int) -> None:
    """Any other whole second loads, an older one too, as when a release is rolled back to."""
    release = live.publish("seed-2", timestamp=epoch - 1)

    wait_until(lambda: live.serves(release), f"{release} served")

    assert live.answer()["timestamp"] == epoch - 1


def test_new_files_without_a_touch_are_not_loaded(live: LiveModel, epoch: int) -> None:
    """A published release with the old timestamp changes nothing until its timestamp file is touched."""
    before = live.answer()
    release = live.publish("seed-2", timestamp=epoch)
    live.wait_for_passes(3)
    assert live.answer() == before

    live.touch(epoch + 1)

    wait_until(lambda: live.serves(release), f"{release} served")


def test_files_changed_in_place_are_loaded(
    live: LiveModel, epoch: int, trained: dict[str, Path], prices: dict[str, float]
) -> None:
    """Files copied over the live ones, as the seed's monitor does it, are read from disk at the next touch."""
    shutil.copy(trained["seed-3"] / "model.pdiparams", live.path)

    live.touch(epoch + 1)

    wait_until(lambda: live.answer()["timestamp"] == epoch + 1, "the touch loaded")
    assert live.answer()["price"] == pytest.approx(prices["seed-3"])


# A load that fails


def test_failed_load_keeps_the_old_model_and_is_not_retried(
    live: LiveModel, epoch: int, trained: dict[str, Path]
) -> None:
    """After a failed load the old model answers, the repaired files are left alone, and the next touch loads."""
    before, already = live.answer(), len(live.log_messages())
    # The program, since of parameters that are cut off Paddle makes a model now and then.
    program = live.path / "model.json"
    program.write_bytes(program.read_bytes()[:200])
    live.touch(epoch + 1)
    live.wait_for_log("E Failed reload resource!", after=already)
    assert live.answer() == before

    shutil.copy(trained["seed-2"] / "model.json", program)
    live.wait_for_passes(3)
    assert live.answer() == before
    assert live.log_messages()[already:].count("E Failed reload resource!") == 1

    live.touch(epoch + 2)
    wait_until(lambda: live.answer()["timestamp"] == epoch + 2, "the repaired model loaded")


def test_timestamp_is_recorded_before_the_load(live: LiveModel, epoch: int) -> None:
    """A failed load counts as seen: going back to the timestamp of the model that serves loads again."""
    already = len(live.log_messages())
    program = live.path / "model.json"
    whole = program.read_bytes()
    program.write_bytes(b"")
    live.touch(epoch + 1)
    live.wait_for_log("E Failed reload resource!", after=already)
    program.write_bytes(whole)

    live.touch(epoch)

    live.wait_for_log(f"W Succ load engine, path: {live.path}", after=already)


@pytest.mark.parametrize("content", [b"no JSON", b"", b"{}"])
def test_damaged_model_does_not_end_the_server(live: LiveModel, epoch: int, content: bytes) -> None:
    """Whatever Paddle raises over a damaged program, the old model keeps answering."""
    before, already = live.answer(), len(live.log_messages())
    (live.path / "model.json").write_bytes(content)

    live.touch(epoch + 1)

    live.wait_for_log("E Failed reload resource!", after=already)
    assert live.answer() == before


@pytest.mark.parametrize("name", ["model.json", "model.pdiparams"])
def test_missing_file_is_a_failed_load(live: LiveModel, epoch: int, name: str) -> None:
    """A model folder without its program or without its parameters is not loaded."""
    before, already = live.answer(), len(live.log_messages())
    (live.path / name).unlink()

    live.touch(epoch + 1)

    live.wait_for_log("E Failed reload resource!", after=already)
    assert live.answer() == before


def test_vanished_timestamp_file_is_an_error_each_pass(live: LiveModel, epoch: int) -> None:
    """Without a timestamp file each pass logs an error, and the model stays until the file is back and newer."""
    before, already = live.answer(), len(live.log_messages())
    live.timestamp_file.unlink()
    complaint = f"E Failed stat config file:{live.timestamp_file}"

    wait_until(lambda: live.log_messages()[already:].count(complaint) >= 3, "three complaints")
    assert live.answer() == before

    live.touch(epoch + 1)
    wait_until(lambda: live.answer()["timestamp"] == epoch + 1, "the touched model loaded")


# The log


def test_pass_without_a_change_logs_the_noise(live: LiveModel) -> None:
    """Each pass without a change logs the three lines that look like success, and nothing else."""
    live.wait_for_passes(1)
    already = len(live.log_messages())

    live.wait_for_passes(3)

    messages = live.log_messages()[already:]
    start = messages.index(NOISE[0])
    assert messages[start : start + 9] == NOISE * 3


def test_success_is_logged_in_the_words_of_the_cpp_server(live: LiveModel, epoch: int) -> None:
    """Two loads log the C++ server's lines in its order, and the index of the slot goes to the other one."""

    def lines_of_a_load(timestamp: int) -> list[str]:
        already = len(live.log_messages())
        live.publish("seed-2", timestamp=timestamp)
        wait_until(lambda: live.answer()["timestamp"] == timestamp, "the new model served")
        live.wait_for_passes(1)
        messages = live.log_messages()[already:]
        begin = messages.index(f"W begin reload model[{live.path}].")
        return messages[begin - 1 : messages.index("I Finish reload 1 workflow(s)", begin) + 1]

    def expected(index: int) -> list[str]:
        return [
            "I Begin reload framework...",
            f"W begin reload model[{live.path}].",
            "W TID Loading clone model ...",
            f"I cube cache is loading data, path: {live.path}/cube_cache",
            f"W No cube cache directory {live.path}/cube_cache provided, ignore it",
            f"W create cube cache[{index}] done.",
            f"W TID Reload clone model and cube cache done. switching to current_idx[{index}]",
            f"W Succ load engine, path: {live.path}",
            "W Succ reload version engine: 18446744073709551615",
            "I Finish reload 1 workflow(s)",
        ]

    first, second = lines_of_a_load(epoch + 1), lines_of_a_load(epoch + 2)

    assert (first, second) in [(expected(0), expected(1)), (expected(1), expected(0))]


def test_failure_is_logged_in_the_words_of_the_cpp_server(live: LiveModel, epoch: int) -> None:
    """A failed load logs the C++ server's lines in its order, with Paddle's reason on one line among them."""
    already = len(live.log_messages())
    (live.path / "model.json").write_bytes(b"no JSON")
    live.touch(epoch + 1)
    live.wait_for_log("E Failed reload resource!", after=already)
    live.wait_for_passes(1)

    messages = live.log_messages()[already:]
    begin = messages.index(f"W begin reload model[{live.path}].")
    lines = messages[begin - 1 : messages.index("I Finish reload 1 workflow(s)", begin) + 1]
    reason = lines.pop(4)
    assert lines == [
        "I Begin reload framework...",
        f"W begin reload model[{live.path}].",
        "W TID Loading clone model ...",
        f"E create paddle predictor failed, path: {live.path}",
        f"E Failed create model, path: {live.path}",
        *AFTER_A_FAILED_LOAD,
    ]
    assert reason.startswith("E reason: ")
    assert "parse error" in reason


def test_start_is_logged_in_the_words_of_the_cpp_server(live: LiveModel) -> None:
    """The log begins with the C++ server's lines of a start, up to the first pass."""
    messages = live.log_messages()

    assert messages[: messages.index("I Begin reload framework...")] == [
        "W Successfully proc initialized mempool wrapper",
        "I model_toolkit_conf.engines(0).name: GeneralInferOp_0",
        f"W Succ load model:{live.path}",
        "W Succ proc initialize version engine: 18446744073709551615",
        "W Succ proc initialize engine: GeneralInferOp_0",
        "W Succ proc initialize engine: GeneralInferOp_0",
        "W Successfully thread initialized mempool wrapper",
        "W TID Loading clone model ...",
        f"I cube cache is loading data, path: {live.path}/cube_cache",
        f"W No cube cache directory {live.path}/cube_cache provided, ignore it",
        "W create cube cache[0] done.",
        "W TID Reload clone model and cube cache done. switching to current_idx[0]",
        "W Succ thrd initialize version engine: 18446744073709551615",
        "W Succ thrd initialize engine, name: GeneralInferOp_0",
        "I Entrence reload worker, interval_s: 0.05",
    ]
    assert "I C++ Serving service started successfully!" in messages


def test_log_has_the_format_of_glog(live: LiveModel) -> None:
    """Every line after glog's header has its prefix, and serving.INFO links to the file of the process."""
    link = live.path.parent / "log" / "serving.INFO"
    lines = live.log_lines()

    assert lines[2] == "Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg"
    prefix = re.compile(r"[IWE](0[1-9]|1[0-2])[0-3]\d [0-2]\d:[0-5]\d:[0-5]\d\.\d{6} [ \d]{4}\d+ [\w.]+:\d+\] \S")
    assert [line for line in lines[3:] if not prefix.match(line)] == []
    assert link.is_symlink()
    assert re.fullmatch(r"serving\..+\.log\.INFO\.\d{8}-\d{6}\.\d+", str(link.readlink()))


# Answers while models change


@contextmanager
def asked_without_pause(live: LiveModel) -> Iterator[list[dict[str, object]]]:
    """Collect answers from four clients that never pause; fail at the end if any request did."""
    answers: list[dict[str, object]] = []
    failures: list[BaseException] = []
    stopping = threading.Event()

    def ask() -> None:
        try:
            while not stopping.is_set():
                answers.append(live.answer())
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        stopping.set()
        for client in clients:
            client.join()
    assert failures == []


def test_no_request_fails_and_no_answer_mixes_models(live: LiveModel, epoch: int, prices: dict[str, float]) -> None:
    """While models are published one after another, each answer is of one release throughout and none fails."""
    timestamps = {live.path.resolve().name: epoch}
    with asked_without_pause(live) as answers:
        for number in range(1, 21):
            release = live.publish(f"seed-{number % 3 + 1}", timestamp=epoch + number)
            timestamps[release] = epoch + number
            wait_until(partial(live.serves, release), f"{release} served")

    assert {str(answer["release"]) for answer in answers} == set(timestamps)
    for answer in answers:
        release = str(answer["release"])
        assert answer["timestamp"] == timestamps[release]
        assert answer["price"] == pytest.approx(prices[release.partition("-release")[0]], rel=1e-5)


def test_releases_swapped_during_a_load_are_not_mixed(live: LiveModel, epoch: int, prices: dict[str, float]) -> None:
    """Releases published faster than they load give answers with the price of their release; the last one stays."""
    with asked_without_pause(live) as answers:
        for number in range(1, 301):
            release = live.publish(f"seed-{number % 3 + 1}", timestamp=epoch + number)
        wait_until(partial(live.serves, release), f"{release} served")

    assert len({answer["release"] for answer in answers}) > 1
    for answer in answers:
        model = str(answer["release"]).partition("-release")[0]
        assert answer["price"] == pytest.approx(prices[model], rel=1e-5)


# Start and end


def test_start_without_a_timestamp_file_fails(trained: dict[str, Path], tmp_path: Path) -> None:
    """Without a timestamp file the server does not start, and says which file is wanted."""
    outcome = subprocess.run(
        command("model_server", "--model", trained["seed-1"], "--port", "0"),
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip

    assert outcome.returncode == 1
    assert f"{trained['seed-1']}/fluid_time_file" in outcome.stderr
    assert "touch the timestamp file" in outcome.stderr
    log = (tmp_path / "log" / "serving.INFO").read_text()
    assert f"] Failed stat config file:{trained['seed-1']}/fluid_time_file\n" in log
    assert f"] Failed load model_data_path{trained['seed-1']}\n" in log


def test_start_with_a_damaged_model_fails(trained: dict[str, Path], tmp_path: Path) -> None:
    """A first model that cannot be loaded is the end of the start, with Paddle's reason."""
    publish_release(trained["seed-1"], tmp_path / "release", tmp_path / "model", timestamp=next(EPOCHS))
    (tmp_path / "model" / "model.json").write_bytes(b"no JSON")

    outcome = subprocess.run(
        command("model_server", "--model", "model", "--port", "0"),
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip

    assert outcome.returncode == 1
    assert "cannot start with model model: " in outcome.stderr
    assert "parse error" in outcome.stderr


def test_log_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """A SERVING_LOG_PATH below nothing ends the start with the path that it came to."""
    outcome = subprocess.run(
        command("model_server", "--model", "model"),
        cwd=tmp_path, env={"SERVING_LOG_PATH": f"{tmp_path}/absent/"}, capture_output=True, text=True,
        timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip

    assert outcome.returncode == 1
    assert f"{tmp_path}/absent/log" in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_with_status_0(
    servers: Servers, trained: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM and SIGINT end the server with status 0, and its port file goes with it."""
    publish_release(trained["seed-1"], tmp_path / "release", tmp_path / "model", timestamp=next(EPOCHS))
    log_path = {"SERVING_LOG_PATH": f"{tmp_path}/"}
    server = servers.start("model_server", "--model", tmp_path / "model", environment=log_path)

    server.process.send_signal(number)

    assert server.process.wait(DEADLINE_SECONDS) == 0
    assert not server.port_file.exists()
    assert (tmp_path / "log" / "serving.INFO").read_text().endswith("] Exit reload worker!\n")


# Parts that a running server does not show


@pytest.fixture
def glog(tmp_path: Path) -> Iterator[GlogFile]:
    """Open a log below the test's folder."""
    log = GlogFile(tmp_path / "log")
    yield log
    log.close()


def test_timestamp_gt_loads_later_timestamps_alone(trained: dict[str, Path], tmp_path: Path, glog: GlogFile) -> None:
    """With the type timestamp_gt an older timestamp is left alone and a later one loads."""
    shutil.copytree(trained["seed-1"], tmp_path / "model")
    meta = tmp_path / "meta"
    meta.touch()
    set_mtime(meta, 1_000)
    engine = ReloadableEngine(EngineDescription("e", str(tmp_path / "model"), str(meta), "timestamp_gt"), glog)
    engine.start()

    set_mtime(meta, 999)
    engine.reload()
    assert engine.model.timestamp == 1_000
    set_mtime(meta, 1_001)
    engine.reload()
    assert engine.model.timestamp == 1_001


@pytest.mark.parametrize("reload_type", ["md5sum", "revision", "none", "unheard of"])
def test_other_reload_types_do_not_start(
    trained: dict[str, Path], tmp_path: Path, glog: GlogFile, reload_type: str
) -> None:
    """The reload types that the C++ server does not implement end the start, as they do there."""
    meta = tmp_path / "meta"
    meta.touch()

    with pytest.raises(StartError, match=f"reload type '{reload_type}'"):
        ReloadableEngine(EngineDescription("e", str(trained["seed-1"]), str(meta), reload_type), glog).start()


def test_folder_that_vanished_is_a_failed_load(trained: dict[str, Path], tmp_path: Path, glog: GlogFile) -> None:
    """A model folder that is gone at the time of the load is logged as such, and the old model stays."""
    shutil.copytree(trained["seed-1"], tmp_path / "model")
    meta = tmp_path / "meta"
    meta.touch()
    engine = ReloadableEngine(EngineDescription("e", str(tmp_path / "model"), str(meta)), glog)
    engine.start()
    before = engine.model

    shutil.rmtree(tmp_path / "model")
    set_mtime(meta, 1_000)
    engine.reload()

    assert engine.model is before
    log = (tmp_path / "log" / "serving.INFO").read_text()
    assert f"] create paddle predictor failed, path not exits: {tmp_path}/model\n" in log


@pytest.mark.parametrize(("program", "parameters"), [("model.pdmodel", "model.pdiparams"), ("__model__", "__params__")])
def test_older_formats_are_loaded(tmp_path: Path, program: str, parameters: str) -> None:
    """Models in Paddle's formats of before 3.0 are found by the names that they had."""
    save_linear_model(tmp_path, 13, old_format=True)
    (tmp_path / "model.pdmodel").rename(tmp_path / program)
    (tmp_path / "model.pdiparams").rename(tmp_path / parameters)

    model = paddle_model.load(str(tmp_path), 1)

    # an untrained layer has no bias, so its answer grows with the features
    assert model.price([2.0] * 13) == pytest.approx(2 * model.price([1.0] * 13), rel=1e-4)
    assert model.price([1.0] * 13) != 0


def test_own_command_line() -> None:
    """The defaults are the C++ server's interval and the files of one model folder."""
    settings = settings_from(["--model", "models/housing/"])

    assert settings.engine == EngineDescription(
        "GeneralInferOp_0", "models/housing", "models/housing/fluid_time_file", "timestamp_ne"
    )
    assert (settings.host, settings.reload_interval, settings.port_file) == ("127.0.0.1", 10, None)


LAUNCHER_COMMAND_LINE = """
-enable_model_toolkit -inferservice_path work -inferservice_file infer_service.prototxt -max_concurrency 0
-num_threads 4 -port 9292 -precision fp32 -use_calib=False -reload_interval_s 7 -resource_path work
-resource_file resource.prototxt -workflow_path work -workflow_file workflow.prototxt -bthread_concurrency 4
-max_body_size 536870912
"""


def write_launcher_files(*, engines: int = 1, engine_type: str = "PADDLE_INFER") -> None:
    """Write into the current folder what Paddle Serving's launcher leaves for the C++ server."""
    Path("work/GeneralInferOp_0").mkdir(parents=True)
    Path("work/resource.prototxt").write_text(
        'model_toolkit_path: "work"\nmodel_toolkit_file: "GeneralInferOp_0/model_toolkit.prototxt"\n'
        'general_model_path: "work"\ngeneral_model_file: "GeneralInferOp_0/general_model.prototxt"\n'
    )
    engine = (
        f'engines {{\n  name: "GeneralInferOp_0"\n  type: "{engine_type}"\n'
        '  reloadable_meta: "uci/fluid_time_file"\n  reloadable_type: "timestamp_gt"\n  model_dir: "uci"\n'
        "  gpu_ids: -1\n  runtime_thread_num: 0\n}\n"
    )
    Path("work/GeneralInferOp_0/model_toolkit.prototxt").write_text(engine * engines)


def test_command_line_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's flags lead to the model of its files; those without a meaning here are kept for the log."""
    monkeypatch.chdir(tmp_path)
    write_launcher_files()

    settings = settings_from(LAUNCHER_COMMAND_LINE.split())

    assert settings.engine == EngineDescription("GeneralInferOp_0", "uci", "uci/fluid_time_file", "timestamp_gt")
    assert (settings.port, settings.reload_interval) == (9292, 7)
    assert {"-enable_model_toolkit=true", "-use_calib=False", "-num_threads=4"} <= set(settings.ignored)


def test_launcher_without_its_files_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags that name an absent file are an error that names it."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SettingsError, match=r"cannot read work/resource\.prototxt"):
        settings_from(LAUNCHER_COMMAND_LINE.split())


def test_several_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two engines are an error: this server serves one model."""
    monkeypatch.chdir(tmp_path)
    write_launcher_files(engines=2)

    with pytest.raises(SettingsError, match="serves exactly one model"):
        settings_from(LAUNCHER_COMMAND_LINE.split())


def test_another_type_of_engine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is not Paddle Inference is an error that names it."""
    monkeypatch.chdir(tmp_path)
    write_launcher_files(engine_type="OTHER")

    with pytest.raises(SettingsError, match="engine of type OTHER"):
        settings_from(LAUNCHER_COMMAND_LINE.split())
