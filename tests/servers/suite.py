"""The contract: what a delivery may rely on with every kind of model server."""

from __future__ import annotations

import pytest

from airflow_serving_reload.delivery.errors import ReloadRefused
from airflow_serving_reload.delivery.pipeline import roll_back

from .bench import Bench, wait_until


class ServerContract:
    """Tests over a server that answers with the release that is live, and goes on doing so from test to test.

    A binding has a fixture `bench`, and `slow`: how a model behaves that the server does not load in time.
    """

    @pytest.fixture(autouse=True)
    def _serves_what_is_live(self, bench: Bench) -> None:
        """Begin with a release of its own that the server was proved to serve."""
        bench.upload("initial")
        with bench.opened() as server:
            bench.deliver(server)
        assert bench.served() == bench.live()

    def test_a_good_release(self, bench: Bench) -> None:
        """A release that the server loads is confirmed, answers from then on, and no request fails meanwhile."""
        before = bench.live()
        bench.upload("good")
        with bench.opened() as server, bench.asked_without_pause() as answers:
            outcome = bench.deliver(server)
            assert bench.served() == outcome.record.release
        assert outcome.changed
        assert outcome.record.confirmed
        assert outcome.previous == before
        assert set(answers) <= {before, outcome.record.release}

    @pytest.mark.parametrize("fault", ["corrupt", "missing"])
    def test_a_release_that_cannot_be_loaded(self, fault: str, bench: Bench) -> None:
        """It is told twice, then rolled back, which is told and proved too; the old model answers all along."""
        before, told = bench.live(), bench.times_told()
        bench.upload("bad", fault)
        with (
            bench.opened() as server,
            bench.asked_without_pause() as answers,
            pytest.raises(ReloadRefused, match=f"; rolled back to {before}, which the server serves") as refusal,
        ):
            bench.deliver(server)
        assert set(answers) == {before}
        assert bench.live() == before
        assert bench.times_told() == told + 3
        refused, restored = bench.releases.history()[1], bench.releases.live()
        assert refused.refused is not None
        assert str(refusal.value).startswith(refused.refused)
        assert restored is not None
        assert restored.confirmed

    def test_the_next_good_release_after_a_bad_one(self, bench: Bench) -> None:
        """A refused release does not stand in the way of the next one."""
        bench.upload("bad", "corrupt")
        with bench.opened() as server:
            with pytest.raises(ReloadRefused):
                bench.deliver(server)
            bench.upload("mended")
            outcome = bench.deliver(server)
        assert outcome.record.confirmed
        assert bench.served() == outcome.record.release

    def test_a_server_that_is_down(self, bench: Bench) -> None:
        """Nothing is confirmed, what was live is live again, and once the server can be asked the release goes live."""
        before = bench.live()
        bench.upload("while it is down")
        with bench.opened_but_down() as server, pytest.raises(ReloadRefused, match="not confirmed either"):
            bench.deliver(server)
        assert bench.live() == before
        with bench.opened() as server:
            outcome = bench.deliver(server)
        assert outcome.record.confirmed
        assert bench.served() == outcome.record.release != before

    def test_already_served(self, bench: Bench) -> None:
        """What is live and confirmed is not told again."""
        told = bench.times_told()
        with bench.opened() as server:
            outcome = bench.deliver(server)
        assert not outcome.changed
        assert bench.times_told() == told

    def test_live_but_never_confirmed(self, bench: Bench) -> None:
        """A release that is live, but was not proved to be served, is told and proved by the next delivery."""
        record = bench.releases.live()
        assert record is not None
        bench.releases.remember(record, confirmed=None)
        told = bench.times_told()
        with bench.opened() as server:
            outcome = bench.deliver(server)
        assert outcome.record.confirmed
        assert bench.times_told() == told + 1

    def test_rolling_back(self, bench: Bench) -> None:
        """The previous release, and then one by its name, answer again, proved, and no request fails meanwhile."""
        first = bench.live()
        bench.upload("second")
        with bench.opened() as server, bench.asked_without_pause() as answers:
            second = bench.deliver(server).record.release
            outcome = roll_back(bench.local, None, server, "a test")
            assert outcome.record.release == first
            assert outcome.record.confirmed
            assert bench.served() == first
            outcome = roll_back(bench.local, second, server, "a test")
            assert outcome.record.release == second
            assert outcome.record.confirmed
            assert bench.served() == second
        assert set(answers) <= {first, second}

    def test_rolling_back_to_what_cannot_be_loaded(self, bench: Bench) -> None:
        """A roll-back that the server refuses says so, and the model that it had answers all along."""
        first = bench.releases.live()
        assert first is not None
        bench.upload("second")
        with bench.opened() as server:
            second = bench.deliver(server).record.release
            bench.break_(bench.releases.path(first), "corrupt")
            with bench.asked_without_pause() as answers, pytest.raises(ReloadRefused):
                roll_back(bench.local, None, server, "a test")
            assert set(answers) == {second}
            roll_back(bench.local, second, server, "a test")
        assert bench.served() == second


class SlowServerContract:
    """Tests over a server that does not reload in time; a binding has a fixture `bench` with one."""

    def test_a_server_that_is_too_slow(self, bench: Bench) -> None:
        """Its time over, what was live is live again, is what answers in the end, and no request fails meanwhile."""
        before = bench.live()
        bench.upload("slow", **self.slow)
        with bench.opened() as server, bench.asked_without_pause() as answers:
            with pytest.raises(ReloadRefused, match=f"rolled back to {before}"):
                bench.deliver(server)
            assert bench.live() == before
            wait_until(lambda: bench.served() == before, "the release that was live")
        assert answers[-1] == before
