"""The contract over a real MLServer, and what only servers have that are told over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_serving_reload.delivery.errors import Refused, ReloadRefused
from airflow_serving_reload.delivery.servers.base import Expected, State
from airflow_serving_reload.demo.processes import Processes

from .mlserver import QUESTION, MlServer, MlServerBench
from .suite import ServerContract, SlowServerContract

pytestmark = pytest.mark.xdist_group("mlserver")


class TestMlServer(ServerContract):
    """A server that is told, and whose metadata tell the version."""

    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, mlserver: MlServer, tmp_path_factory: pytest.TempPathFactory) -> MlServerBench:
        """Give a model of its own."""
        return mlserver.bench(tmp_path_factory.mktemp("model"), **cls.options)


class TestMlServerWithProbe(TestMlServer):
    """The same, where a prediction tells the release."""

    options: ClassVar[dict[str, Any]] = {"probe": QUESTION}


class TestMlServerWithWorker(TestMlServerWithProbe):
    """The same, where a process of its own loads the models and answers with them, as MLServer does by itself."""

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> MlServerBench:
        """Give a model of a server of its own."""
        server = MlServer.start(processes, tmp_path_factory.mktemp("mlserver"), workers=1)
        return server.bench(tmp_path_factory.mktemp("model"), **cls.options)


class TestSlowMlServer(SlowServerContract):
    """A server that takes longer to load a model than it may, and lets nothing else through meanwhile."""

    slow: ClassVar[dict[str, Any]] = {"seconds_alone": 1}

    @pytest.fixture
    def bench(self, mlserver: MlServer, tmp_path: Path) -> MlServerBench:
        """Give a model of its own, and a server that may take no time for it."""
        return mlserver.bench(tmp_path, load_timeout=0.2)


@pytest.fixture
def bench(mlserver: MlServer, tmp_path: Path) -> MlServerBench:
    """Give a model of its own."""
    return mlserver.bench(tmp_path)


def test_readiness_proves_nothing(bench: MlServerBench) -> None:
    """After a load that failed the server is as ready as before, and what is asked for is not taken for served."""
    before = bench.live()
    bench.upload("bad", "corrupt")
    with bench.opened() as server:
        with pytest.raises(
            ReloadRefused, match=r"it answered 500 json.decoder.JSONDecodeError: Expecting .*; see its log"
        ):
            bench.deliver(server)
        refused = bench.releases.history()[1].release
        assert bench.is_ready()
        assert server.look(Expected(refused, None, "bad"), {}).state is State.LOADING
        assert server.look(Expected(before, None, "first"), {}).state is State.SERVED


def test_what_the_server_says(bench: MlServerBench) -> None:
    """The error repeats the server's own words."""
    bench.upload("bad", "missing")
    with (
        bench.opened() as server,
        pytest.raises(ReloadRefused, match="it answered 422 Invalid URI specified for model"),
    ):
        bench.deliver(server)


def test_a_model_that_loads_but_is_not_ready(bench: MlServerBench) -> None:
    """A server that says that it has loaded a model, and then that it is not ready, has not confirmed it."""
    before = bench.live()
    bench.upload("not ready", ready=False)
    with (
        bench.describe(ready_timeout=0).open(bench.connect) as server,
        pytest.raises(
            ReloadRefused, match=f"asked whether it is ready it answered 400.*rolled back to {before}, which"
        ),
    ):
        bench.deliver(server)
    assert bench.served() == before


def test_a_load_that_takes_its_time(bench: MlServerBench) -> None:
    """While a model is loaded the old one answers, and the order is waited for."""
    before = bench.live()
    bench.upload("slow", seconds=0.5)
    with bench.opened() as server, bench.asked_without_pause() as answers:
        outcome = bench.deliver(server)
    assert outcome.record.confirmed
    assert answers.count(before) > 0
    assert bench.served() == outcome.record.release


def test_a_release_without_its_settings(bench: MlServerBench) -> None:
    """A release that the server does not know is refused with its words, and the old model answers."""
    before = bench.live()
    bench.upload("bad", "settings")
    with bench.opened() as server, pytest.raises(ReloadRefused, match=f"404 Model {bench.name} not found; check"):
        bench.deliver(server)
    assert bench.served() == before == bench.live()


def test_a_wrong_model_name(bench: MlServerBench) -> None:
    """A name that the server does not know is told, and nothing is confirmed."""
    before = bench.live()
    bench.upload("good")
    with (
        bench.describe(model_name="no such/model").open(bench.connect) as server,
        pytest.raises(ReloadRefused, match=r"it answered 404 .*; check model_name"),
    ):
        bench.deliver(server)
    assert bench.live() == before


def test_a_probe_that_the_model_cannot_answer(bench: MlServerBench) -> None:
    """A model that loads, but does not answer the probe, is refused and rolled back."""
    before = bench.live()
    bench.upload("good")
    with (
        bench.describe(probe={"inputs": "nonsense"}, ready_timeout=0).open(bench.connect) as server,
        pytest.raises(ReloadRefused, match=r"the probe was answered 422"),
    ):
        bench.deliver(server)
    assert bench.live() == before == bench.served()


def test_the_very_same_version_again(bench: MlServerBench) -> None:
    """A release that is forced is told from the one of the same version by the probe, and by nothing else."""
    first = bench.live()
    bench.upload("first")
    with bench.describe(probe=QUESTION).open(bench.connect) as server:
        outcome = bench.deliver(server)
        assert server.look(Expected(first, None, "first"), {}).state is State.LOADING
        assert server.look(Expected(outcome.record.release, None, "first"), {}).state is State.SERVED


def test_nothing_to_compare(bench: MlServerBench) -> None:
    """Whether a release is served that has no version is not to be told by metadata alone, and that is said."""
    with bench.opened() as server, pytest.raises(Refused, match="its answers do not tell; give the release"):
        server.look(Expected("any", None, None), {})


def test_what_staging_leaves_is_not_found(bench: MlServerBench) -> None:
    """A model that is being unpacked below the server's repository is not what it loads."""
    staging = bench.local.path / "_serving_monitor_tmp"
    with bench.releases.delivering(), bench.releases.staging(staging) as folder:
        bench.write(folder, "unfinished")
        bench.break_(folder, "corrupt")
        bench.load()
        assert bench.served() == bench.live()
