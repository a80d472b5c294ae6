"""`airflow serving-reload`: what is live on this host, since when and from where, and what was before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.cli.cli_config import ARG_OUTPUT, ARG_VERBOSE, ActionCommand, Arg, CLICommand, GroupCommand

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_serving_reload.delivery.release import Record, Releases

ARG_LOCAL_PATH = Arg(("local_path",), help="folder of the server, as the operators' local_path")  # type: ignore[no-untyped-call]
ARG_MODEL = Arg(("--local-model-name",), help="name of the model; all models in the folder if left out")  # type: ignore[no-untyped-call]


def get_commands() -> list[CLICommand]:
    """Give the commands to Airflow."""
    arguments = (ARG_LOCAL_PATH, ARG_MODEL, ARG_OUTPUT, ARG_VERBOSE)
    return [
        GroupCommand(
            name="serving-reload",
            help="Look at the models that were delivered to this host",
            subcommands=(
                ActionCommand(
                    name="status",
                    help="Show the live release of each model: since when, from which donefile and run",
                    func=status,
                    args=arguments,
                ),
                ActionCommand(
                    name="history",
                    help="Show all releases that are kept, with what was refused or given up, and why",
                    func=history,
                    args=arguments,
                ),
            ),
        )
    ]


def status(arguments: Namespace) -> None:
    """Print one row for each model: its live release."""
    _print(arguments, [row for releases in _found(arguments) for row in _rows(releases) if row["state"] == "live"])


def history(arguments: Namespace) -> None:
    """Print one row for each release."""
    _print(arguments, [row for releases in _found(arguments) for row in _rows(releases)])


def _found(arguments: Namespace) -> list[Releases]:
    from airflow_serving_reload.delivery.release import Releases, models_in

    folder = Path(arguments.local_path)
    names = [arguments.local_model_name] if arguments.local_model_name else models_in(folder)
    if not names:
        raise SystemExit(f"Nothing was delivered to {folder} yet; give the local_path of the operators.")
    return [Releases(folder, name) for name in names]


def _rows(releases: Releases) -> list[dict[str, Any]]:
    live = releases.live()
    return [
        {
            "model": releases.model.name,
            "release": record.release,
            "state": _state(record, live),
            "published": record.published or "",
            "confirmed": record.confirmed or "",
            "version": ((record.donefile or {}).get("content") or {}).get("version", ""),
            "source": record.source or "",
            "run": "/".join(str(part) for part in record.run.values()),
            "why": record.refused or record.withdrawn or "",
        }
        for record in releases.history()
    ]


def _state(record: Record, live: Record | None) -> str:
    if live is not None and record.release == live.release:
        return "live"
    if record.refused:
        return "refused"
    if record.withdrawn:
        return "given up"
    return "kept" if record.published else "not published"


def _print(arguments: Namespace, rows: list[dict[str, Any]]) -> None:
    from airflow.cli.simple_table import AirflowConsole

    AirflowConsole().print_as(data=rows, output=arguments.output)
