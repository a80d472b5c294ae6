"""The embedded model server behind the genuine Paddle Serving launcher, in place of its C++ binary."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import pytest
import requests

from airflow_serving_reload.delivery.errors import ReloadRefused
from airflow_serving_reload.delivery.fetch import Remote
from airflow_serving_reload.delivery.pipeline import Local, Outcome, deliver, roll_back
from airflow_serving_reload.delivery.servers.paddle import PaddleServer
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.upload import upload
from airflow_serving_reload.demo import housing
from airflow_serving_reload.demo.host import Reader

pytestmark = pytest.mark.system

# Far beyond the launcher's start and its reload interval of 10 s: it only turns a hang into a failure.
DEADLINE_SECONDS = 120

MODEL = "uci_housing_model"


def wait_until(condition: Callable[[], object], expected: str) -> None:
    """Return once the condition is true; fail, saying what was expected, if it never is."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never seen within {DEADLINE_SECONDS} s: {expected}")
        time.sleep(0.05)


@pytest.fixture
def sample_model(launcher_python: Path) -> Path:
    """Return the trained housing model that comes with the launcher, in the old `__model__` format."""
    found = list(launcher_python.parents[1].glob(f"lib/*/site-packages/paddle_serving_server/**/fit_a_line/{MODEL}"))
    assert len(found) == 1
    return found[0]


@dataclass(frozen=True)
class Launched:
    """A model folder behind a symlink, served by what the launcher started in the working folder."""

    folder: Path
    port: int

    @property
    def timestamp_file(self) -> Path:
        """The file that the server looks at."""
        return self.folder / MODEL / "fluid_time_file"

    def publish(self, model: Path, release: str, *, timestamp: int) -> None:
        """Make a model live by renaming the symlink, its timestamp file already set."""
        shutil.copytree(model, self.folder / release)
        timestamp_file = self.folder / release / "fluid_time_file"
        timestamp_file.touch()
        os.utime(timestamp_file, (timestamp, timestamp))
        (self.folder / "next").symlink_to(release)
        (self.folder / "next").replace(self.folder / MODEL)

    def answer(self) -> dict[str, object]:
        """Ask for the price of the sample house."""
        response = requests.get(f"http://127.0.0.1:{self.port}/predict", timeout=DEADLINE_SECONDS)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def answers(self) -> bool:
        """Tell whether somebody listens."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        """Return the server's log."""
        return (self.folder / "log" / "serving.INFO").read_text()


@pytest.fixture
def launched(
    launcher_python: Path, sample_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Launched]:
    """Start the launcher with its own sample model, behind a link or in a folder; the embedded server is its binary."""
    binary = tmp_path / "serving"
    binary.write_text(
        f"#!{sys.executable}\nfrom airflow_serving_reload.demo.model_server import main; raise SystemExit(main())\n"
    )
    binary.chmod(0o755)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        launched = Launched(tmp_path, unused.getsockname()[1])
    if getattr(request, "param", "link") == "link":
        launched.publish(sample_model, "sample", timestamp=1_700_000_000)
    else:
        shutil.copytree(sample_model, tmp_path / MODEL)
        launched.timestamp_file.touch()
    output = tmp_path / "output"
    with output.open("wb") as file:
        launcher = subprocess.Popen(
            [
                *(launcher_python, "-m", "paddle_serving_server.serve"),
                *("--model", MODEL, "--thread", "4", "--port", str(launched.port)),
            ],
            cwd=tmp_path,
            env={**os.environ, "SERVING_BIN": str(binary)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the launcher leaves its server behind when it alone is ended
        )
    try:
        wait_until(lambda: launched.answers() or launcher.poll() is not None, "the server listening")
        assert launcher.poll() is None, output.read_text()
        yield launched
    finally:
        os.killpg(launcher.pid, signal.SIGTERM)
        launcher.wait(DEADLINE_SECONDS)
        wait_until(lambda: not launched.answers(), "the server ended")


def test_launched_server_reloads_a_published_model(launched: Launched, tmp_path: Path) -> None:
    """Behind the launcher the server answers with its sample model, and with a published one after its touch."""
    first = launched.answer()
    started_with = launched.timestamp_file.stat().st_mtime_ns // 1_000_000_000
    assert (first["release"], first["timestamp"]) == ("sample", started_with)
    assert "ignored flag: -num_threads=4" in launched.log()
    assert f"Succ load engine, path: {MODEL}" not in launched.log()

    trained = tmp_path / "trained"
    housing.train(trained, seed=1, epochs=1)
    launched.publish(trained, "retrained", timestamp=started_with + 1)
    wait_until(lambda: launched.answer()["release"] == "retrained", "the retrained model served")

    x = np.array([housing.normalise(housing.SAMPLE_HOUSE)], dtype=np.float32)
    price = paddle.jit.load(str(trained / "model"))(paddle.to_tensor(x)).numpy().item()
    assert launched.answer() == {
        "price": pytest.approx(price, rel=1e-5), "release": "retrained", "timestamp": started_with + 1
    }  # fmt: skip
    assert launched.answer()["price"] != pytest.approx(first["price"], abs=0.1)
    wait_until(lambda: f"] Succ load engine, path: {MODEL}\n" in launched.log(), "the success in the log")


@pytest.mark.parametrize("launched", ["folder"], indirect=True)
def test_launched_server_proves_and_refuses(launched: Launched, tmp_path: Path) -> None:
    """Behind the launcher, which looks each 10 s, good models are proved, a broken one is put back, none is missed."""
    remote = Remote(FileSystemStore(tmp_path / "store"), "/models", "model.tar.gz", "donefile")
    local = Local(tmp_path, MODEL)
    probe = f"http://127.0.0.1:{launched.port}/predict"
    server = PaddleServer(log_path=str(tmp_path / "log" / "serving.INFO"), probe_url=probe)

    def bring(model: Path, version: str) -> Outcome:
        upload(remote.store, remote.path, model, model=remote.model, donefile=remote.donefile, version=version)
        return deliver(remote, local, unpacked_filename=MODEL, temporary=tmp_path / "tmp", server=server)

    trained, broken = tmp_path / "trained" / MODEL, tmp_path / "broken" / MODEL
    housing.train(trained, seed=1, epochs=1)
    shutil.copytree(trained, broken)
    (broken / "model.json").write_text("no program")
    with Reader(probe) as reader:
        good = bring(trained, "good").record
        assert launched.answer()["release"] == good.release
        with pytest.raises(ReloadRefused, match=rf"Failed .*; rolled back to {good.release}, which the server serves"):
            bring(broken, "broken")
        assert launched.log().count("Failed reload resource!") == 2
        assert launched.answer()["release"] == good.release
        sample = roll_back(local, None, server, "a test").record
        assert sample.origin == "adopted"
        assert launched.answer()["release"] == sample.release
    assert reader.sent > 100
    assert (reader.failures, reader.mixed()) == ([], [])
