"""The trigger: one event for each version, remembered only once it is safe, and never dead."""

from __future__ import annotations

import asyncio
import importlib
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from airflow.sdk import Asset
from airflow.sdk.execution_time.context import AssetStateStoreAccessors
from structlog.testing import capture_logs

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.triggers import DonefileTrigger, donefile_asset, watermark
from airflow_serving_reload.triggers.folder import pause_after

ARGUMENTS = {"conn_id": "model_store", "remote_path": "/models", "poke_interval": 0.01}


class WatchedAssets:
    """The state of watched assets that the triggerer gives a watcher."""

    def __init__(self, answers=None):
        self.state = {}
        self.written = asyncio.Event()
        self.answers = asyncio.Event()
        self.left = answers

    def __getitem__(self, asset):
        return self

    async def aget(self, key):
        """Give the stored value; after so many answers not before whoever stores events too has time again."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                await self.answers.wait()
        return self.state.get(key)

    async def aset(self, key, value):
        """Store a value."""
        self.state[key] = value
        self.written.set()


@asynccontextmanager
async def running(trigger):
    """Run a trigger; gives a function that waits for its next event."""
    events = trigger.run()
    pending = None

    async def next_event(seconds=10):
        nonlocal pending
        pending = pending or asyncio.ensure_future(anext(events))
        payload = (await asyncio.wait_for(asyncio.shield(pending), seconds)).payload
        pending = None
        return payload

    try:
        yield next_event
    finally:
        if pending:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await events.aclose()
        await trigger.cleanup()


def test_can_be_made_again():
    """What a trigger serialises makes the same trigger, and is JSON."""
    trigger = DonefileTrigger(**ARGUMENTS, last_seen={"size": 1}, asset_name="a")
    classpath, arguments = trigger.serialize()
    module, _, name = classpath.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))
    assert again.serialize() == trigger.serialize()


async def test_one_event_for_each_version(workplace):
    """Each version gives one event, whose payload is the version, and a version known already gives none."""
    first = workplace.upload("v1")["donefile"]
    async with running(DonefileTrigger(**ARGUMENTS)) as next_event:
        assert await next_event() == first
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        second = workplace.upload("v2")["donefile"]
        assert await next_event() == second
    async with running(DonefileTrigger(**ARGUMENTS, last_seen=second)) as next_event:
        with pytest.raises(TimeoutError):
            await next_event(0.2)


async def test_missing_is_not_yet(workplace):
    """A donefile that is not there yet is waited for, and so is one that was removed."""
    async with running(DonefileTrigger(**ARGUMENTS)) as next_event:
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        first = workplace.upload("v1")["donefile"]
        assert await next_event() == first
        (workplace.store / "models/donefile").unlink()
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        second = workplace.upload("v2")["donefile"]
        assert await next_event() == second


@pytest.mark.parametrize("task", [None, SimpleNamespace(task_id="wait")], ids=["watcher", "sensor"])
async def test_missing_is_told_once(workplace, task):
    """That there is no donefile is told once, with its place, and again only after there had been one."""
    trigger = DonefileTrigger(**ARGUMENTS)
    if task:
        trigger.task_instance = task
    with capture_logs() as logged:
        async with asyncio.timeout(30), running(trigger) as next_event:

            async def told(times):
                levels = []
                while len(levels) < times:
                    with pytest.raises(TimeoutError):
                        await next_event(0.2)
                    levels = [line["log_level"] for line in logged if line["event"] == words]
                return levels

            words = "watching model_store:/models/donefile: there is no donefile yet"
            assert await told(1) == ["info"]
            assert await told(1) == ["info"]
            workplace.upload("v1")
            await next_event()
            (workplace.store / "models/donefile").unlink()
            assert await told(2) == ["info", "info"]


async def test_watermark_is_written_only_after_the_event_is_safe(workplace, monkeypatch):
    """A watcher remembers a version not before the time in which its event is persisted, so that a crash repeats it."""
    monkeypatch.setattr(watermark, "PERSISTED_AFTER", 0)
    trigger = DonefileTrigger(**ARGUMENTS, asset_name="donefile of the model")
    trigger.asset_state_store = assets = WatchedAssets(answers=1)
    first = workplace.upload("v1")["donefile"]
    async with running(trigger) as next_event:
        assert await next_event() == first
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        assert assets.state == {}
        assets.answers.set()
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        await asyncio.wait_for(assets.written.wait(), 10)
    assert assets.state == {"donefile": first}
    again = DonefileTrigger(**ARGUMENTS, asset_name="donefile of the model")
    again.asset_state_store = assets
    async with running(again) as next_event:
        with pytest.raises(TimeoutError):
            await next_event(0.2)


async def test_unsafe_event_is_repeated(workplace):
    """A watcher that died before its event was safe gives it again."""
    first = workplace.upload("v1")["donefile"]
    assets = WatchedAssets()
    for _ in range(2):
        trigger = DonefileTrigger(**ARGUMENTS)
        trigger.asset_state_store = assets
        async with running(trigger) as next_event:
            assert await next_event() == first


async def test_watches_before_its_state_is_known(workplace):
    """A change is told of while Airflow has yet to tell the state, and nothing that came before it is told of later."""
    workplace.upload("v1")
    trigger = DonefileTrigger(**ARGUMENTS)
    trigger.asset_state_store = assets = WatchedAssets(answers=0)
    async with running(trigger) as next_event:
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        second = workplace.upload("v2")["donefile"]
        assert await next_event() == second
        assets.answers.set()
        with pytest.raises(TimeoutError):
            await next_event(0.2)


@pytest.mark.parametrize("announced", [True, False])
async def test_state_that_is_known_late(workplace, announced):
    """A version that was there before the state was known is told of once it shows that it was not, and only then."""
    first = workplace.upload("v1")["donefile"]
    trigger = DonefileTrigger(**ARGUMENTS)
    trigger.asset_state_store = assets = WatchedAssets(answers=0)
    assets.state = {"donefile": first} if announced else {}
    async with running(trigger) as next_event:
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        assets.answers.set()
        if announced:
            with pytest.raises(TimeoutError):
                await next_event(0.2)
            second = workplace.upload("v2")["donefile"]
            assert await next_event() == second
        else:
            assert await next_event() == first


async def test_lives_through_faults(workplace, monkeypatch, capsys, caplog):
    """A watcher outlives a store that cannot be reached and a connection that is missing, and says so."""

    async def hear(words):
        heard = ""
        while words not in heard + caplog.text:
            await asyncio.sleep(0.01)
            heard += capsys.readouterr().out

    good = DonefileTrigger(**ARGUMENTS)
    monkeypatch.delenv("AIRFLOW_CONN_MODEL_STORE")
    async with asyncio.timeout(60), running(good) as next_event:
        coming = asyncio.ensure_future(next_event(60))
        await hear("fault 1 in a row")
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", '{"conn_type": "http", "host": "127.0.0.1", "port": 1}')
        await hear("cannot be reached")
        connection = {"conn_type": "fs", "extra": {"path": str(workplace.store)}}
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps(connection))
        await good.cleanup()
        assert not coming.done()
        first = (await asyncio.to_thread(workplace.upload, "v1"))["donefile"]
        assert await coming == first


@pytest.mark.parametrize(("interval", "longest"), [(1, 6), (10, 60), (30, 60), (90, 90)])
def test_pauses_grow_with_faults(interval, longest):
    """A store that fails again and again is asked ever more rarely, but each sixth time, and once a minute."""
    pauses = [pause_after(faults, interval) for faults in range(10)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (interval, longest)
    assert pause_after(10**6, interval) == longest


async def test_refusal_ends_a_deferred_sensor(workplace, monkeypatch):
    """For a deferred sensor, what a retry cannot mend ends the waiting with the reason."""
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", '{"conn_type": "mysql", "host": "127.0.0.1"}')
    trigger = DonefileTrigger(**ARGUMENTS)
    trigger.task_instance = SimpleNamespace(task_id="wait")
    async with running(trigger) as next_event:
        assert "no store" in (await next_event())["error"]


async def test_several_assets_without_a_name(workplace, caplog):
    """A watcher that several assets share without a name announces all the same, and says what to do about it."""
    trigger = DonefileTrigger(**ARGUMENTS)
    trigger.asset_state_store = AssetStateStoreAccessors(inlets=[Asset("a"), Asset("b")])
    async with running(trigger) as next_event:
        for version in ("v1", "v2"):
            uploaded = workplace.upload(version)["donefile"]
            assert (await next_event())["sha256"] == uploaded["sha256"]
    assert "asset_name" in caplog.text


@pytest.mark.parametrize("argument", ["conn_id", "remote_path", "remote_donefile_name"])
@pytest.mark.parametrize("template", ["a{{ ds }}", "a{% if x %}b{% endif %}"])
def test_asset_of_a_template(argument, template):
    """A watcher's connection, folder or name that is a template is refused, by its name."""
    arguments = {"conn_id": "c", "remote_path": "/r", argument: template}
    with pytest.raises(Refused, match=f"{argument} is .*, but watchers render no templates"):
        donefile_asset("a", **arguments)


def test_asset_has_its_watcher():
    """`donefile_asset` gives an asset whose watcher's trigger knows the asset's name."""
    asset = donefile_asset("a", conn_id="c", remote_path="/r", remote_donefile_name="d", poke_interval=3)
    [watcher] = asset.watchers
    _, arguments = watcher.trigger.serialize()
    assert arguments == {
        "conn_id": "c",
        "remote_path": "/r",
        "remote_donefile_name": "d",
        "poke_interval": 3,
        "last_seen": None,
        "asset_name": "a",
    }
