"""The whole Dag of one `monitor.py` command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Asset, Param

from airflow_serving_reload.operators.reload import ReloadModelOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_serving_reload.delivery.release import PublishMode
    from airflow_serving_reload.delivery.servers.base import ServerDescription

OF_THE_CONNECTION = frozenset(
    {
        "type",
        "general_host",
        "ftp_host",
        "ftp_port",
        "ftp_username",
        "ftp_password",
        "hadoop_bin",
        "fs_name",
        "fs_ugi",
    }
)
"""Options of `monitor.py` that an Airflow connection holds here."""


def serving_reload_dag(
    dag_id: str,
    *,
    schedule: Any = None,
    hosts: Sequence[str] | Mapping[str, str] | None = None,
    conn_id: str,
    remote_path: str,
    remote_model_name: str,
    remote_donefile_name: str = "donefile",
    local_path: str,
    local_model_name: str,
    local_timestamp_file: str = "fluid_time_file",
    local_tmp_path: str = "_serving_monitor_tmp",
    interval: float = 10,
    unpacked_filename: str | None = None,
    debug: bool = False,
    server: ServerDescription | None = None,
    publish_mode: PublishMode = "auto",
    keep_releases: int = 3,
    **dag_arguments: Any,
) -> DAG:
    """Make the Dag that does what one `monitor.py` command line does.

    :param schedule: when to look at the donefile; None to run whenever the triggerer sees it change.
    :param hosts: serving hosts, one task each. A list gives each the queue `serving-<host>`, a mapping names the
        queue of each; a worker on each host must listen to its queue. None, and only that, for one task on any worker.
    :param conn_id: connection to the store. It takes the place of the options `type`, `general_host`, `ftp_*`,
        `hadoop_bin`, `fs_name` and `fs_ugi`.
    :param interval: seconds between two looks at the donefile, where no schedule is given.
    :param debug: log at level DEBUG what this package does.
    :param server: asked to confirm the reload.
    :param dag_arguments: passed on to `DAG`. By default a task is tried again for about an hour, ever more slowly, and
        waits for the one of the run before on its host, but not for other hosts. What `default_args` and `params`
        hold is added to these defaults and to the param `force`, and takes the place only of what has the same name.
    :return: the Dag.
    :raises TypeError: an option belongs to the connection, or `hosts` names none.
    :raises Refused: no schedule is given, and connection, folder or name of the donefile is a template.
    """
    if misplaced := sorted(OF_THE_CONNECTION & set(dag_arguments)):
        raise TypeError(
            f"serving_reload_dag {dag_id!r}: {', '.join(misplaced)} belong to the Airflow connection {conn_id!r}; "
            "set them there and leave them out here"
        )
    queues = _queues(dag_id, hosts)
    if schedule is None:
        from airflow_serving_reload.triggers import donefile_asset

        schedule = [
            donefile_asset(
                f"{dag_id} donefile",
                conn_id=conn_id,
                remote_path=remote_path,
                remote_donefile_name=remote_donefile_name,
                poke_interval=interval,
            )
        ]
    arguments: dict[str, Any] = {
        "catchup": False,
        "doc_md": f"Brings `{remote_model_name}` to the server as soon as `{remote_donefile_name}` changes.",
        **dag_arguments,
        "default_args": _with_defaults(
            dag_arguments.get("default_args"),
            {
                "retries": 10,
                "retry_delay": timedelta(seconds=10),
                "retry_exponential_backoff": True,
                "max_retry_delay": timedelta(minutes=10),
                "max_active_tis_per_dag": 1,
            },
        ),
        "params": _with_defaults(
            dag_arguments.get("params"),
            {"force": Param(False, type="boolean", title="Force", description_md=FORCE)},
        ),
    }
    with DAG(dag_id, schedule=schedule, **arguments) as dag:
        for host, queue in queues.items() or [("", "")]:
            where: dict[str, Any] = {"queue": queue} if queue else {}
            ReloadModelOperator(
                task_id=f"reload_model_{host}" if host else "reload_model",
                task_display_name=f"Reload the model on {host}" if host else "Reload the model",
                conn_id=conn_id,
                remote_path=remote_path,
                remote_model_name=remote_model_name,
                remote_donefile_name=remote_donefile_name,
                local_path=local_path,
                local_model_name=local_model_name,
                local_timestamp_file=local_timestamp_file,
                local_tmp_path=local_tmp_path,
                unpacked_filename=unpacked_filename,
                server=server,
                model_asset=Asset(f"{dag_id} live on {host}" if host else f"{dag_id} live"),
                force="{{ params.force }}",
                publish_mode=publish_mode,
                keep_releases=keep_releases,
                pre_execute=_log_more if debug else None,
                **where,
            )
    return dag


def _queues(dag_id: str, hosts: Sequence[str] | Mapping[str, str] | None) -> Mapping[str, str]:
    """Give the queue of each host; none at all for any worker."""
    if hosts is None:
        return {}
    queues: Mapping[str, str] = {}
    if isinstance(hosts, Mapping):
        queues = hosts
    # a text is a sequence of texts, too
    elif not isinstance(hosts, str):
        queues = {host: f"serving-{host}" for host in hosts}
    if not queues or not all(host and queue for host, queue in queues.items()):
        raise TypeError(
            f"serving_reload_dag {dag_id!r}: hosts is {hosts!r}, neither a list of hosts nor a mapping of hosts to "
            "their queues; name at least one so, or leave it out for one task on any worker"
        )
    return queues


def _with_defaults(wanted: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    # only by its items a ParamsDict gives its Params whole; by a name it gives a mere value
    return {**defaults, **dict((wanted or {}).items())}


def _log_more(_context: Context) -> None:
    logging.getLogger("airflow_serving_reload").setLevel(logging.DEBUG)
    # other loggers have their own level, but these let nothing pass that is below theirs
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.DEBUG)


FORCE = "Fetch and publish the model even if it is live already, or was rolled back from."
