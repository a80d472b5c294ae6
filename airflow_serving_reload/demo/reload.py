"""Paddle Serving's reload contract: when a model is loaded, and every line that the log says about it.

The behaviour, the order and the words are those of ``core/predictor/framework/`` of the C++ server, whose file and
line each message names: ``infer.h`` (``CloneDBReloadableInferEngine`` with one thread), ``infer.cpp``,
``server.cpp``. Where the C++ server would die of an exception that a load raises, this one logs a failed load.
"""

from __future__ import annotations

import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_serving_reload.demo import paddle_model

if TYPE_CHECKING:
    from airflow_serving_reload.demo.glog import GlogFile
    from airflow_serving_reload.demo.paddle_model import LoadedModel

TIMESTAMP_FILE = "fluid_time_file"
ENGINE_TYPE = "PADDLE_INFER"

# The version of an engine without one: -1 as an unsigned 64 bit number.
_VERSION = 2**64 - 1


class StartError(Exception):
    """The server cannot start with this model."""


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What ``model_toolkit.prototxt`` says about a model; the names are those of its fields.

    :param name: name of the engine, for the log.
    :param model_dir: the model folder, a symlink to it included.
    :param reloadable_meta: the timestamp file.
    :param reloadable_type: ``timestamp_ne`` loads at every change of the mtime, ``timestamp_gt`` at later ones alone.
    """

    name: str
    model_dir: str
    reloadable_meta: str
    reloadable_type: str = "timestamp_ne"


class ReloadableEngine:
    """The model that is served, and the one before it: loads go to the other slot, then the index is switched.

    :param description: which model, and how a change is told.
    :param glog: where the lines go.
    """

    def __init__(self, description: EngineDescription, glog: GlogFile) -> None:
        self._description = description
        self._glog = glog
        self._last_timestamp: int | None = None
        self._cores: list[LoadedModel | None] = [None, None]
        self._current_index = 1

    @property
    def model(self) -> LoadedModel:
        """The model that answers now. Take it once per answer, since the next call may return another."""
        model = self._cores[self._current_index]
        if model is None:
            raise RuntimeError("the engine has not been started")
        return model

    def start(self) -> None:
        """Load the first model.

        :raises StartError: if the timestamp file is absent or the model cannot be loaded.
        """
        glog, name, model_dir = self._glog, self._description.name, self._description.model_dir
        glog.warning("resource.cpp:98", "Successfully proc initialized mempool wrapper")
        glog.info("infer.cpp:409", f"model_toolkit_conf.engines(0).name: {name}")
        if not self._check_need_reload():
            glog.error("infer.cpp:34", f"Failed load model_data_path{model_dir}")
            glog.error("infer.cpp:50", "Failed proc initialize impl")
            glog.error("infer.cpp:217", f"Failed initialize engine, type:{ENGINE_TYPE}")
            glog.error("infer.cpp:195", f"Failed proc intialize engine: {name}")
            glog.error("infer.cpp:421", f"Failed initialize version engine, name:{name}")
            raise StartError(
                f"cannot start with model {model_dir}: {self._description.reloadable_meta} is not there, or is no "
                f"regular file, or the reload type {self._description.reloadable_type!r} is not timestamp_ne or "
                "timestamp_gt; touch the timestamp file first"
            )
        glog.warning("infer.cpp:43", f"Succ load model:{model_dir}")
        glog.warning("infer.cpp:234", f"Succ proc initialize version engine: {_VERSION}")
        glog.warning("infer.cpp:199", f"Succ proc initialize engine: {name}")
        glog.warning("infer.cpp:429", f"Succ proc initialize engine: {name}")
        glog.warning("resource.cpp:302", "Successfully thread initialized mempool wrapper")
        failure = self._load()
        if failure:
            glog.error("infer.h:303", f"Failed create thread data from {model_dir}")
            raise StartError(f"cannot start with model {model_dir}: {failure}")
        glog.warning("infer.cpp:254", f"Succ thrd initialize version engine: {_VERSION}")
        glog.warning("infer.cpp:440", f"Succ thrd initialize engine, name: {name}")

    def reload(self) -> None:
        """Do one pass: look at the timestamp file, load if it changed, keep the old model if that fails."""
        glog, name, model_dir = self._glog, self._description.name, self._description.model_dir
        glog.info("server.cpp:155", "Begin reload framework...")
        failure = None
        if self._check_need_reload():
            glog.warning("infer.cpp:134", f"begin reload model[{model_dir}].")
            failure = self._load()
            if failure is None:
                glog.warning("infer.h:239", f"Succ load engine, path: {model_dir}")
        if failure is None:
            glog.warning("infer.cpp:286", f"Succ reload version engine: {_VERSION}")
        else:
            glog.error("infer.h:234", "Failed reload engine model: 0")
            glog.error("infer.cpp:283", f"Failed reload version engine: {_VERSION}")
            glog.error("infer.cpp:458", f"Failed reload engine, name: {name}")
            glog.error("resource.cpp:333", "Failed reload infer manager")
            glog.error("server.cpp:157", "Failed reload resource!")
        glog.info("manager.h:131", "Finish reload 1 workflow(s)")

    def _check_need_reload(self) -> bool:
        """Tell whether the mtime changed, in whole seconds, and record it: whatever the load comes to."""
        reload_type = self._description.reloadable_type
        if reload_type not in ("timestamp_ne", "timestamp_gt"):
            if reload_type not in ("md5sum", "revision", "none"):
                self._glog.error("infer.cpp:159", f"Not support reload type: {reload_type}")
            return False
        compare_line = 166 if reload_type == "timestamp_ne" else 181
        try:
            status = Path(self._description.reloadable_meta).stat()
        except OSError:
            meta = self._description.reloadable_meta
            self._glog.error(f"infer.cpp:{compare_line}", f"Failed stat config file:{meta}")
            return False
        timestamp, last = status.st_mtime_ns // 1_000_000_000, self._last_timestamp
        if not status.st_mode & stat.S_IFREG or timestamp == last:
            return False
        if reload_type == "timestamp_gt" and last is not None and timestamp < last:
            return False
        self._last_timestamp = timestamp
        return True

    def _load(self) -> str | None:
        """Load into the slot that does not serve, then switch to it.

        :return: what went wrong, or None.
        """
        if self._last_timestamp is None:
            raise RuntimeError("a load needs the timestamp that caused it")
        glog, model_dir = self._glog, self._description.model_dir
        next_index = (self._current_index + 1) % 2
        thread_id = threading.get_native_id()
        self._cores[next_index] = None
        glog.warning("infer.h:434", f"tid:{thread_id} Loading clone model ...")
        try:
            self._cores[next_index] = paddle_model.load(model_dir, self._last_timestamp)
        except Exception as error:  # noqa: BLE001 - paddle raises whatever type its C++ error maps to
            failure = paddle_model.summary(error)
            if Path(model_dir).exists():
                glog.error("paddle_engine.h:396", f"create paddle predictor failed, path: {model_dir}")
            else:
                glog.error("paddle_engine.h:167", f"create paddle predictor failed, path not exits: {model_dir}")
            glog.error("paddle_model.py:1", f"reason: {failure}")
            glog.error("infer.h:438", f"Failed create model, path: {model_dir}")
            return failure
        cube_cache = f"{model_dir}/cube_cache"
        glog.info("cache.cpp:48", f"cube cache is loading data, path: {cube_cache}")
        if not Path(cube_cache).is_dir():
            glog.warning("cache.cpp:58", f"No cube cache directory {cube_cache} provided, ignore it")
        glog.warning("infer.h:447", f"create cube cache[{next_index}] done.")
        self._current_index = next_index
        glog.warning(
            "infer.h:481",
            f"[{thread_id}] Reload clone model and cube cache done. switching to current_idx[{next_index}]",
        )
        return None


class ReloadWorker:
    """The thread that does a pass at once and then one after every pause.

    :param engine: a started engine.
    :param interval: pause between two passes, in seconds.
    :param glog: where the lines go.
    """

    def __init__(self, engine: ReloadableEngine, interval: float, glog: GlogFile) -> None:
        self._engine = engine
        self._interval = interval
        self._glog = glog
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reload worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let a pass under way finish, then end the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        # the C++ server misspells it so
        self._glog.info("server.cpp:152", f"Entrence reload worker, interval_s: {self._interval:g}")
        while not self._stopping.is_set():
            self._engine.reload()
            self._stopping.wait(self._interval)
        self._glog.info("server.cpp:167", "Exit reload worker!")
