"""The two command lines of the model server: its own, and the one that Paddle Serving's launcher writes."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from airflow_serving_reload.demo.reload import ENGINE_TYPE, TIMESTAMP_FILE, EngineDescription


class SettingsError(Exception):
    """A command line, or a file that it names, cannot be used."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the model server is told.

    :param engine: the model and how a change of it is told.
    :param host: address to listen on.
    :param port: port to listen on, 0 for one that the kernel gives.
    :param reload_interval: pause between two looks at the timestamp file, in seconds.
    :param port_file: where to write the port once the server is ready, or None.
    :param ignored: flags of the C++ server that mean nothing here, as they were given.
    """

    engine: EngineDescription
    host: str
    port: int
    reload_interval: float
    port_file: Path | None = None
    ignored: tuple[str, ...] = ()


def settings_from(arguments: list[str]) -> Settings:
    """Read either command line; the launcher's begins with a flag of one dash.

    :raises SettingsError: if a value, or a file that the launcher wrote, cannot be used.
    """
    if re.match(r"-[a-zA-Z]\w", arguments[0] if arguments else ""):
        return _from_launcher(arguments)
    return _from_own(arguments)


def _from_own(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(
        prog="airflow-serving-reload-model-server",
        description="Answer with a Paddle model, and load it anew when the mtime of its timestamp file changes.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder, or a symlink to it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9292, help="0: any free port (default: %(default)s)")
    parser.add_argument(
        "--reload-interval", type=float, default=10, metavar="SECONDS", help="pause between two looks (default: 10)"
    )
    parser.add_argument("--port-file", type=Path, metavar="FILE", help="gets the port once the server is ready")
    given = parser.parse_args(arguments)
    model_dir = given.model.rstrip("/") or "/"
    return Settings(
        engine=EngineDescription(
            name="GeneralInferOp_0", model_dir=model_dir, reloadable_meta=f"{model_dir}/{TIMESTAMP_FILE}"
        ),
        host=given.host,
        port=given.port,
        reload_interval=given.reload_interval,
        port_file=given.port_file,
    )


def _from_launcher(arguments: list[str]) -> Settings:
    flags = _flags(arguments)
    try:
        port = int(flags.pop("port", "8010"))
        reload_interval = float(flags.pop("reload_interval_s", "10"))
    except ValueError as error:
        raise SettingsError(f"cannot read -port and -reload_interval_s, numbers are wanted: {error}") from error
    resource = Path(flags.pop("resource_path", "./conf"), flags.pop("resource_file", "resource.prototxt"))
    return Settings(
        engine=_engine_of(resource),
        host="127.0.0.1",
        port=port,
        reload_interval=reload_interval,
        ignored=tuple(f"-{name}={value}" for name, value in flags.items()),
    )


def _flags(arguments: list[str]) -> dict[str, str]:
    """Read gflags: ``-name value``, ``-name=value``, and ``-name`` alone for a switch; two dashes are the same."""
    flags = {}
    remaining = list(arguments)
    while remaining:
        name, equals, value = remaining.pop(0).lstrip("-").partition("=")
        if not equals:
            value = remaining.pop(0) if remaining and not remaining[0].startswith("-") else "true"
        flags[name] = value
    return flags


def _engine_of(resource: Path) -> EngineDescription:
    """Follow the launcher's files: ``resource.prototxt`` names ``model_toolkit.prototxt``, which names the model."""
    resource_text = _read(resource)
    toolkit = Path(
        _only(resource, resource_text, "model_toolkit_path"), _only(resource, resource_text, "model_toolkit_file")
    )
    text = _read(toolkit)
    engine_type = _only(toolkit, text, "type")
    if engine_type != ENGINE_TYPE:
        raise SettingsError(f"{toolkit} wants an engine of type {engine_type}; this server has {ENGINE_TYPE} alone")
    return EngineDescription(
        name=_only(toolkit, text, "name"),
        model_dir=_only(toolkit, text, "model_dir"),
        reloadable_meta=_only(toolkit, text, "reloadable_meta"),
        reloadable_type=_only(toolkit, text, "reloadable_type"),
    )


def _read(prototxt: Path) -> str:
    try:
        return prototxt.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot read {prototxt}, which the launcher should have written: {error}") from error


def _only(prototxt: Path, text: str, field: str) -> str:
    values: list[str] = re.findall(rf'^\s*{field}: "([^"]*)"', text, re.MULTILINE)
    if len(values) != 1:
        raise SettingsError(f"{prototxt} has {field} {len(values)} times: this server serves exactly one model")
    return values[0]
