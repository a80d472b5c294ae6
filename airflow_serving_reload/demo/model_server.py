"""The embedded model server: answers with a Paddle model over HTTP and reloads it as Paddle Serving's C++ server does.

It starts by itself (``--model``), or behind Paddle Serving's launcher in place of the C++ binary, whose flags it takes
and which it is given to by ``SERVING_BIN``. What a reload is and says stands in ``reload.py``.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from aiohttp import web

from airflow_serving_reload.demo import housing, service
from airflow_serving_reload.demo.glog import GlogFile, log_folder
from airflow_serving_reload.demo.paddle_model import PredictionError
from airflow_serving_reload.demo.reload import ReloadableEngine, ReloadWorker, StartError
from airflow_serving_reload.demo.settings import Settings, SettingsError, settings_from

if TYPE_CHECKING:
    from collections.abc import Sequence


class BadRequestError(Exception):
    """A request for a prediction does not hold 13 numbers."""


def main(argv: list[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT.

    :param argv: either command line, without the program; None reads that of the process.
    :return: exit status: 0, or 1 if the server could not start.
    """
    service.exit_cleanly_on_signals()
    try:
        run(settings_from(sys.argv[1:] if argv is None else argv))
    except (SettingsError, StartError, OSError) as error:
        print(f"model server: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def run(settings: Settings) -> None:
    """Load the model and serve it until SIGTERM or SIGINT.

    :raises StartError: if there is no model to begin with.
    :raises OSError: if the log cannot be written or the port is taken.
    """
    service.forget_port(settings.port_file)
    glog = GlogFile(log_folder())
    for flag in settings.ignored:
        glog.info("settings.py:1", f"ignored flag: {flag}")
    engine = ReloadableEngine(settings.engine, glog)
    with service.signals_deferred():
        engine.start()
    worker = ReloadWorker(engine, settings.reload_interval, glog)
    worker.start()

    def when_ready(address: str) -> None:
        glog.info("server.cpp:101", "C++ Serving service started successfully!")
        service.say(f"model server: {settings.engine.model_dir} at {address}/predict")

    try:
        asyncio.run(service.serve(application(engine), settings.host, settings.port, settings.port_file, when_ready))
    finally:
        worker.stop()
        glog.close()


def application(engine: ReloadableEngine) -> web.Application:
    """Return the HTTP face of an engine: ``POST /predict`` with raw features, ``GET /predict`` as a probe."""

    async def predict(request: web.Request) -> web.Response:
        try:
            return await answer(features_in(await request.read()))
        except BadRequestError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def probe(_: web.Request) -> web.Response:
        return await answer(housing.SAMPLE_HOUSE)

    async def answer(features: Sequence[float]) -> web.Response:
        model = engine.model
        try:
            price = await asyncio.to_thread(model.price, housing.normalise(features))
        except PredictionError as error:
            return web.json_response({"error": str(error)}, status=500)
        return web.json_response({"price": price, "release": model.release, "timestamp": model.timestamp})

    server = web.Application()
    server.add_routes([web.post("/predict", predict), web.get("/predict", probe)])
    return server


def features_in(body: bytes) -> list[float]:
    """Take the raw features out of the body of a request.

    :raises BadRequestError: if the body is anything but ``{"x": [13 finite numbers]}``.
    """
    wanted = f'wanted: {{"x": [{len(housing.FEATURE_NAMES)} numbers]}}, in the order {", ".join(housing.FEATURE_NAMES)}'
    try:
        request: Any = json.loads(body)
    except ValueError as error:
        raise BadRequestError(f"found a body that is not JSON ({error}); {wanted}") from error
    features = request.get("x") if isinstance(request, dict) else None
    if not isinstance(features, list):
        raise BadRequestError(f'found no list under "x"; {wanted}')
    if len(features) != len(housing.FEATURE_NAMES):
        raise BadRequestError(f'found {len(features)} values under "x"; {wanted}')
    for name, feature in zip(housing.FEATURE_NAMES, features, strict=True):
        if not _is_finite_number(feature):
            raise BadRequestError(f"found {json.dumps(feature)} for {name}, which is no finite number; {wanted}")
    return [float(feature) for feature in features]


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


if __name__ == "__main__":
    sys.exit(main())
