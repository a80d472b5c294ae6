"""A part of each campaign: every seventh point or still fewer, beginning with another one in each scenario."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_serving_reload.demo.processes import Processes
from tests.contract.hadoop import Hdfs

from . import crowd_campaign, host_campaign, kill_campaign, network_campaign, power_campaign
from .kill_campaign import SCENARIOS
from .power_campaign import require_loop_devices
from .soak import soak
from .transports import Transport, WebHdfs

STEP = 7
POINTS = list(enumerate(SCENARIOS))
NETWORK_POINTS = list(enumerate(network_campaign.SCENARIOS))
NETWORK_STEPS = {"http": 23, "http_in_parts": 23, "ftp": 23, "webhdfs": 61}


@pytest.fixture
def _power() -> None:
    """Run only where the power of a file system can be cut."""
    require_loop_devices()


@pytest.mark.parametrize(("first", "name"), POINTS, ids=SCENARIOS)
def test_killed(first: int, name: str) -> None:
    """Whatever is killed wherever, readers see whole models only, and the next run succeeds and cleans up."""
    tally = kill_campaign.attack(name, step=STEP, first=1 + first % STEP)
    assert tally.killed > 3
    assert tally.faults == []


@pytest.mark.usefixtures("_power")
@pytest.mark.parametrize(("first", "name"), POINTS, ids=SCENARIOS)
def test_power_cut(first: int, name: str) -> None:
    """Wherever the power fails, a whole model is live afterwards, and a finished change has lasted."""
    tally = power_campaign.attack(name, step=STEP, first=1 + first % STEP)
    assert tally.killed > 3
    assert tally.faults == []


@pytest.mark.system
def test_soak() -> None:
    """Delivery after delivery is proved and no request fails, and nothing grows but what is kept."""
    soaked = soak(12)
    assert (soaked.served, soaked.failed, soaked.mixed) == (12, [], 0)
    assert soaked.models_seen > 12
    assert soaked.warm
    assert soaked.end
    assert soaked.end.open_files <= soaked.warm.open_files
    assert soaked.end.disk_kib < 2 * soaked.warm.disk_kib


@pytest.fixture
def _own_airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep whatever Airflow writes out of the home of whoever runs the tests."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def http(processes: Processes) -> Iterator[Transport]:
    """Start an nginx."""
    with network_campaign.http(processes) as transport:
        yield transport


@pytest.fixture(scope="module")
def http_in_parts(processes: Processes) -> Iterator[Transport]:
    """Start an nginx."""
    with network_campaign.http_in_parts(processes) as transport:
        yield transport


@pytest.fixture(scope="module")
def ftp(processes: Processes) -> Iterator[Transport]:
    """Start a vsftpd."""
    with network_campaign.ftp(processes) as transport:
        yield transport


@pytest.fixture(scope="module")
def webhdfs(running_hdfs: Hdfs) -> Transport:
    """Take the HDFS that the tests share."""
    return WebHdfs(running_hdfs)


@pytest.mark.usefixtures("_own_airflow_home")
@pytest.mark.parametrize("server", network_campaign.SERVERS)
@pytest.mark.parametrize(("first", "name"), NETWORK_POINTS, ids=network_campaign.SCENARIOS)
def test_broken_network(server: str, first: int, name: str, request: pytest.FixtureRequest) -> None:
    """Wherever the network breaks, either the whole new model is live, or a clear fault tells it and nothing moved."""
    tally = network_campaign.attack(request.getfixturevalue(server), name, step=NETWORK_STEPS[server], first=first)
    assert tally.cases > 0
    assert tally.faults == []


@pytest.mark.usefixtures("_power")
@pytest.mark.parametrize("name", host_campaign.FAULTS)
def test_faults_of_the_host(name: str) -> None:
    """Whatever the host does not let happen: the fault says what, the old model is live, and nothing piles up."""
    tally = host_campaign.attack(name, step=4, every=2)
    assert tally.refused > 10
    assert tally.faults == []


@pytest.mark.parametrize("name", crowd_campaign.CROWDS)
def test_eight_at_once(name: str) -> None:
    """Of eight processes the last one's model is live, whole, and all waited that had to, and said so."""
    crowd = crowd_campaign.CROWDS[name]
    tally = crowd_campaign.attack(name)
    assert tally == crowd_campaign.Tally(runs=8, waited=tally.waited, whole=1)
    assert crowd.apart or tally.waited == 8
