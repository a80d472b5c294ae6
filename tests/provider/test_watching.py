"""Many donefiles watched at once: the store is asked for little, nothing is lost, and no store delays another."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import defaultdict
from contextlib import asynccontextmanager
from hashlib import sha256
from types import SimpleNamespace

import pytest
from aiohttp import web
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.triggers.shared_stream import SharedStreamManager

from airflow_serving_reload import store_threads
from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.demo.store import application
from airflow_serving_reload.triggers import DonefileTrigger, folder

LONG_AGO = 1_600_000_000
INTERVAL = 0.05

# Far beyond what anything here takes: it only turns a hang into a failure.
DEADLINE_SECONDS = 60


class Store:
    """The embedded store, with a count of what it is asked, and a way to keep it from answering."""

    def __init__(self, root):
        self.root = root
        root.mkdir(parents=True)
        self.asked = []
        self.methods = []
        self.refuses = ()
        self.gives_up_on = ()
        self.waiting = self.most_waiting = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.busy = False

    @web.middleware
    async def _count(self, request, handler):
        self.asked.append(request.path)
        self.methods.append(request.method)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.answers.wait()
        finally:
            self.waiting -= 1
        if self.busy or f"{request.method} {request.path}" in self.gives_up_on:
            return web.Response(status=503 if self.busy else 504)
        if request.method in self.refuses:
            return web.Response(status=405)
        return await handler(request)

    @asynccontextmanager
    async def running(self, monkeypatch, conn_id):
        """Let it listen behind a connection."""
        app = application(self.root)
        app.middlewares.append(self._count)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            connection = {"conn_type": "http", "host": host, "port": port}
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
            yield self
        finally:
            self.answers.set()
            await runner.cleanup()

    def put(self, path, content=b"", mtime=None):
        """Make or replace a donefile."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.root.with_name(f"{self.root.name}.beside")
        beside.write_bytes(content)
        if mtime is not None:
            os.utime(beside, (mtime, mtime))
        beside.replace(file)


@pytest.fixture
async def store(tmp_path, monkeypatch):
    """Start an empty store."""
    async with Store(tmp_path / "store").running(monkeypatch, "model_store") as running:
        yield running


@asynccontextmanager
async def watching(*triggers):
    """Run triggers as the triggerer does; gives the payloads of the events of each, by the donefile's name."""
    manager = SharedStreamManager()
    events = defaultdict(list)

    async def run(number, trigger):
        key = trigger.shared_stream_key()
        stream = manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                events[trigger.remote_donefile_name].append(event.payload)
        finally:
            await manager.unsubscribe(number, key)
            await trigger.cleanup()

    running = [asyncio.ensure_future(run(number, trigger)) for number, trigger in enumerate(triggers)]
    try:
        yield events
        assert not any(task.done() for task in running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def until(condition):
    """Wait until something holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - stores have no events to wait for
            await asyncio.sleep(INTERVAL / 5)


def trigger(name, remote_path="/models", conn_id="model_store", **arguments):
    """Make the trigger of a donefile."""
    return DonefileTrigger(
        conn_id=conn_id, remote_path=remote_path, remote_donefile_name=name, poke_interval=INTERVAL, **arguments
    )


@pytest.mark.parametrize("deferred", [False, True])
async def test_one_listing_serves_all(store, deferred):
    """Once they are known, donefiles in one folder cost one listing at each interval, be they watched or waited for."""
    names = [f"donefile-{number}" for number in range(40)]
    for name in names:
        store.put(f"models/{name}", mtime=LONG_AGO)
    triggers = [trigger(name, "/models" if number % 2 else "models/") for number, name in enumerate(names)]
    for one in triggers if deferred else ():
        one.task_instance = SimpleNamespace(task_id="wait")
    async with watching(*triggers) as events:
        await until(lambda: len(events) == len(names))
        await until(lambda: store.asked[-10:] == ["/models/"] * 10)
        assert {len(told) for told in events.values()} == {1}


@pytest.mark.parametrize("apart", [False, True])
async def test_no_upload_is_lost(store, apart):
    """Of donefiles replaced twice in one second the last upload is announced, be they alike in time and length."""
    names = [f"donefile-{number}" for number in range(20)]
    folders = {name: f"models/{name}" if apart else "models" for name in [*names, "absent"]}
    for name in names:
        store.put(f"{folders[name]}/{name}", b"0", mtime=LONG_AGO)

    def is_known():
        if apart:
            return store.methods[-50:] == ["HEAD"] * 50
        return store.asked[-5:] == ["/models/"] * 5

    async with watching(*(trigger(name, folder) for name, folder in folders.items())) as events:
        await until(is_known)
        for content in (b"1", b"2"):
            for name in [*names[:10], "absent"]:
                store.put(f"{folders[name]}/{name}", content)
        last = sha256(b"2").hexdigest()
        await until(
            lambda: all(events[name] and events[name][-1]["sha256"] == last for name in [*names[:10], "absent"])
        )
        assert {len(events[name]) for name in names[10:]} == {1}


async def test_lone_donefile_is_asked_for(store):
    """Where one donefile is watched, the folder is not listed, and no donefile is sent that is known to be the same."""
    store.put("models/donefile", mtime=LONG_AGO)
    async with watching(trigger("donefile")):
        await until(lambda: store.methods[-10:] == ["HEAD"] * 10)
    assert set(store.asked) == {"/models/donefile"}
    assert store.methods.count("GET") <= 3


async def test_donefile_that_cannot_be_asked_for(store):
    """A donefile of which the server tells nothing but by sending it is looked at each time, and no change is lost."""
    store.refuses = ("HEAD",)
    store.put("models/donefile", b"1", mtime=LONG_AGO)
    async with watching(trigger("donefile")) as events:
        await until(lambda: store.methods.count("GET") >= 5)
        store.put("models/donefile", b"2", mtime=LONG_AGO - 1)
        await until(lambda: len(events["donefile"]) == 2)


@pytest.mark.parametrize(
    ("others", "given_up"), [(1, "GET /models/"), (0, "HEAD /models/donefile")], ids=["listing", "question"]
)
async def test_question_that_a_proxy_gives_up_on(store, others, given_up):
    """Where only listing the folder fails, or asking for the donefile's facts, each donefile is looked at instead."""
    store.gives_up_on = (given_up,)
    store.put("models/donefile", b"1", mtime=LONG_AGO)
    async with watching(trigger("donefile"), *(trigger(f"other-{number}") for number in range(others))) as events:
        await until(lambda: store.asked.count("/models/donefile") >= 5)
        store.put("models/donefile", b"2", mtime=LONG_AGO - 1)
        await until(lambda: len(events["donefile"]) == 2)


async def test_connection_is_read_anew_until_it_is_mended(store, monkeypatch):
    """Where no store could be opened for what the connection says, it is read again, and then the question answered."""
    mended = os.environ["AIRFLOW_CONN_MODEL_STORE"]
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps({"conn_type": "http", "extra": {"timeout": "x"}}))
    with store_threads.threads_for("model_store", "/models") as threads:
        for ask in (threads.ask, threads.ask_last):
            with pytest.raises(Refused):
                await ask(lambda opened: opened.describe("/"))
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", mended)
        assert (await threads.ask(lambda opened: opened.describe("/"))).startswith("http://127.0.0.1:")


async def test_connection_that_is_changed_is_noticed(store, tmp_path, monkeypatch):
    """Where a connection leads elsewhere, its new store is watched, although the old one answers as it did."""
    monkeypatch.setattr(store_threads, "CONNECTION_SECONDS", INTERVAL)
    store.put("models/donefile", b"1", mtime=LONG_AGO)
    async with watching(trigger("donefile")) as events:
        await until(lambda: events["donefile"])
        moved = Store(tmp_path / "moved")
        moved.put("models/donefile", b"2", mtime=LONG_AGO + 1)
        async with moved.running(monkeypatch, "model_store"):
            await until(lambda: len(events["donefile"]) == 2)
            await until(lambda: len(moved.asked) >= 20)
            asked = len(store.asked)
            await until(lambda: len(moved.asked) >= 40)
            assert len(store.asked) == asked


async def test_connection_that_cannot_be_read_anew(store, monkeypatch):
    """Where a connection cannot be read any more, its store is watched on as long as it answers."""
    monkeypatch.setattr(store_threads, "CONNECTION_SECONDS", 0)
    with store_threads.threads_for("model_store", "/models") as threads:
        first = await threads.ask(lambda opened: opened)
        monkeypatch.delenv("AIRFLOW_CONN_MODEL_STORE")
        for _ in range(3):
            assert await threads.ask(lambda opened: opened) is first
            with pytest.raises(AirflowNotFoundException):
                await threads._read_connection()


async def test_those_who_wait_behind_a_fault(store, monkeypatch):
    """Questions that wait behind one that fails are asked by the connection read anew; where it is gone, they fail."""
    monkeypatch.setattr(store_threads, "SWEEP_SECONDS", DEADLINE_SECONDS)
    goes_on = threading.Event()
    environment = "AIRFLOW_CONN_MODEL_STORE"
    mended = os.environ[environment]
    changes = [lambda: monkeypatch.setenv(environment, mended), lambda: monkeypatch.delenv(environment)]

    def fails(_):
        goes_on.wait()
        changes.pop(0)()
        raise ValueError

    async def ask(threads):
        goes_on.clear()
        questions = (fails, *[lambda opened: opened.describe("/")] * 2)
        asked = [asyncio.ensure_future(threads.ask_last(question)) for question in questions]
        await until(lambda: len(threads._waiting) == 2)
        goes_on.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await asyncio.gather(*asked, return_exceptions=True)

    monkeypatch.setenv(environment, json.dumps({**json.loads(mended), "host": "outdated"}))
    with store_threads.threads_for("model_store", "/models") as threads:
        fault, *answers = await ask(threads)
        assert isinstance(fault, ValueError)
        assert all(answer.startswith("http://127.0.0.1:") for answer in answers)
        fault, *faults = await ask(threads)
        assert isinstance(fault, ValueError)
        assert [type(fault) for fault in faults] == [AirflowNotFoundException] * 2


async def test_large_folder_is_not_listed_for_a_few(store, monkeypatch):
    """A folder with many other files is listed once, and then the few donefiles watched there are looked at."""
    monkeypatch.setattr(folder, "NAMES_EACH", 2)
    for number in range(10):
        store.put(f"models/donefile-{number}", mtime=LONG_AGO)
    async with watching(trigger("donefile-0"), trigger("donefile-1")):
        await until(lambda: len(store.asked) >= 40)
    assert store.asked.count("/models/") == 1


async def test_silent_store_delays_nobody(store, tmp_path, monkeypatch):
    """A store that is silent about many folders is asked by few connections, and another one is watched on time."""
    silent = Store(tmp_path / "silent")
    async with silent.running(monkeypatch, "silent_store"):
        silent.answers.clear()
        many = [trigger(f"silent-{number}", f"/models-{number}", "silent_store") for number in range(30)]
        async with watching(*many, trigger("donefile")) as events:
            await until(lambda: silent.waiting == store_threads.THREADS)
            store.put("models/donefile")
            await until(lambda: events["donefile"])
            for number in range(30):
                silent.put(f"models-{number}/silent-{number}", mtime=LONG_AGO)
            silent.answers.set()
            await until(lambda: len(events) == 31)
            assert silent.most_waiting == store_threads.THREADS


async def test_who_looks_goes_first(store, monkeypatch):
    """What has changed is looked at before what may have, however many ask whether it has."""
    monkeypatch.setattr(store_threads, "THREADS", 1)
    monkeypatch.setattr(store_threads, "SWEEP_SECONDS", 0)
    store.put("models/donefile")
    order = []
    with store_threads.threads_for("model_store", "/models") as threads:
        store.answers.clear()
        asked = [asyncio.ensure_future(threads.ask_last(lambda store: store.stat("/models/donefile")))]
        await until(lambda: store.waiting == 1)
        asked += [asyncio.ensure_future(threads.ask_last(lambda _: order.append("may have"))) for _ in range(10)]
        asked += [asyncio.ensure_future(threads.ask(lambda _: order.append("has")))]
        # all of them have begun to wait
        await asyncio.sleep(0)
        store.answers.set()
        await asyncio.gather(*asked)
    assert order == ["has", *["may have"] * 10]


async def test_question_without_an_answer_delays_no_other(store):
    """While the store leaves one question without an answer, those asked before and behind it are answered."""
    answers = threading.Event()
    with store_threads.threads_for("model_store", "/models") as threads:
        first, silent, last = (
            asyncio.ensure_future(threads.ask_last(question))
            for question in (lambda _: 1, lambda _: answers.wait(), lambda _: 2)
        )
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await asyncio.gather(first, last) == [1, 2]
            assert not silent.done()
        finally:
            answers.set()
        assert await silent


async def test_fault_is_told_to_who_has_asked(store, monkeypatch):
    """Of questions that wait together each has its own answer or fault, and one that is given up is not asked."""
    monkeypatch.setattr(store_threads, "SWEEP_SECONDS", DEADLINE_SECONDS)
    begun, answers = threading.Event(), threading.Event()
    asked = []

    def waits(_):
        begun.set()
        return answers.wait()

    def fails(_):
        raise ValueError

    with store_threads.threads_for("model_store", "/models") as threads:
        questions = (waits, lambda _: asked.append("given up"), fails, lambda _: asked.append("last"))
        waiting = [asyncio.ensure_future(threads.ask_last(question)) for question in questions]
        await until(begun.is_set)
        waiting[1].cancel()
        answers.set()
        first, given_up, fault, last = await asyncio.gather(*waiting, return_exceptions=True)
    assert [first, type(given_up), type(fault), last] == [True, asyncio.CancelledError, ValueError, None]
    assert asked == ["last"]


async def test_panic_is_told_to_who_has_asked(store):
    """Where a library panics, which is no exception of the usual kind, who has asked is told, and others go on."""

    class Panic(BaseException):
        pass

    def panics(_):
        raise Panic

    with store_threads.threads_for("model_store", "/models") as threads:
        for ask in (threads.ask, threads.ask_last):
            async with asyncio.timeout(DEADLINE_SECONDS):
                with pytest.raises(Panic):
                    await ask(panics)
                assert await ask(lambda _: 1) == 1


async def test_outage_is_outlived_by_all(store):
    """While a store fails only its folder and one donefile are asked for; when it is back the watchers go on."""
    store.put("models/donefile-0", mtime=LONG_AGO)
    async with watching(trigger("donefile-0"), trigger("donefile-1")) as events:
        await until(lambda: store.asked[-5:] == ["/models/"] * 5)
        store.busy = True
        during = len(store.asked)
        await until(lambda: len(store.asked) >= during + 10)
        assert set(store.asked[during:]) == {"/models/", "/models/donefile-0"}
        store.busy = False
        store.put("models/donefile-1")
        await until(lambda: events["donefile-1"])
        assert len(events["donefile-0"]) == 1


async def test_nothing_is_left_open(store):
    """When nobody watches any more, the threads end and the connections are closed."""
    store.put("models/donefile", mtime=LONG_AGO)
    async with watching(trigger("donefile"), trigger("absent")) as events:
        await until(lambda: events["donefile"])
        assert any(thread.name.startswith("store model_store") for thread in threading.enumerate())
    await until(lambda: not any(thread.name.startswith("store model_store") for thread in threading.enumerate()))
    assert not store_threads._shared
    assert not folder._watched
