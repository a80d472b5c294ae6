"""What Airflow's provider manager learns about this package."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Give the dict behind the entry point `apache_airflow_provider`."""
    return {
        "package-name": "airflow-serving-reload",
        "name": "Serving reload",
        "description": "Hot reload of freshly trained models in running model servers, proved and rolled back.",
        "integrations": [
            {
                "integration-name": "Paddle Serving",
                "external-doc-url": "https://github.com/PaddlePaddle/Serving",
                "tags": ["software"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Paddle Serving",
                "python-modules": ["airflow_serving_reload.hooks"],
            }
        ],
        "operators": [
            {
                "integration-name": "Paddle Serving",
                "python-modules": ["airflow_serving_reload.operators"],
            }
        ],
        "sensors": [
            {
                "integration-name": "Paddle Serving",
                "python-modules": ["airflow_serving_reload.sensors"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Paddle Serving",
                "python-modules": ["airflow_serving_reload.triggers"],
            }
        ],
        "connection-types": _connection_types(),
        "cli": ["airflow_serving_reload.cli.get_commands"],
        "config": {
            "serving_reload": {
                "description": "How models are brought to their servers.",
                "options": {
                    "max_members": {
                        "description": "Files, folders and links that an archive may hold at most.",
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": None,
                        "default": "1000000",
                    },
                    "max_unpacked_bytes": {
                        "description": "Bytes that an archive may unpack to at most.",
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": None,
                        "default": "4398046511104",
                    },
                    "max_unpacked_ratio": {
                        "description": (
                            "Unpacked bytes for each packed byte at most; judged beyond the first GiB, "
                            "so that small models may compress as well as they like."
                        ),
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": None,
                        "default": "200",
                    },
                },
            }
        },
    }


def _connection_types() -> list[dict[str, Any]]:
    """Give the connection types that no provider of Airflow brings, with their forms."""
    types = [
        {
            "connection-type": "hadoop_cli",
            "hook-class-name": "airflow_serving_reload.hooks.HadoopCliHook",
            "hook-name": "HDFS or AFS by the Hadoop client",
            "ui-field-behaviour": {
                "hidden-fields": ["schema", "login", "port"],
                "relabeling": {"host": "fs_name", "password": "fs_ugi"},
                "placeholders": {"host": "hdfs://namenode:8020", "password": "user,password"},
            },
            "conn-fields": {
                "hadoop_bin": _text(
                    "hadoop_bin", "Path of the program hadoop, or of the folder that has it as bin/hadoop."
                ),
                "timeout": TIMEOUT,
                "config": HADOOP_SETTINGS,
            },
        },
        {
            "connection-type": "hdfs_native",
            "hook-class-name": "airflow_serving_reload.hooks.HdfsNativeHook",
            "hook-name": "HDFS by its native protocol",
            "ui-field-behaviour": {
                "hidden-fields": ["schema", "password"],
                "relabeling": {"host": "NameNodes or nameservice"},
                "placeholders": {"host": "namenode1,namenode2", "port": "8020"},
            },
            "conn-fields": {
                "config_dir": _text(
                    "Folder of settings", "Has core-site.xml and hdfs-site.xml; HADOOP_CONF_DIR's if empty."
                ),
                "config": HADOOP_SETTINGS,
                "kerberos_principal": _text("Kerberos principal", "Who asks, in a cluster that wants Kerberos."),
                "kerberos_keytab": _text("Kerberos keytab", "File with the keys of the principal."),
                "kerberos_cache": _text("Kerberos cache", "File with the tickets of the principal."),
                "timeout": TIMEOUT,
            },
        },
    ]
    if _is_installed("airflow.providers.apache.hdfs"):
        return types
    return [
        *types,
        {
            "connection-type": "webhdfs",
            "hook-class-name": "airflow_serving_reload.hooks.WebHdfsHook",
            "hook-name": "HDFS by WebHDFS",
            "ui-field-behaviour": {
                "hidden-fields": [],
                "relabeling": {"host": "NameNodes", "schema": "Path of the gateway"},
                "placeholders": {"host": "namenode1,namenode2", "port": "9870"},
            },
            "conn-fields": {
                "use_ssl": {"label": "TLS", "schema": {"type": ["boolean", "null"]}},
                "verify": _text("Authorities", "File or folder of the certificates to trust, or false to trust all."),
                "cert": _text("Client's certificate", "File with the certificate that the gateway asks for."),
                "key": _text("Client's key", "File with the certificate's key."),
                "timeout": TIMEOUT,
            },
        },
    ]


def _text(label: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"]}}


TIMEOUT: dict[str, Any] = {
    "label": "Timeout",
    "description": "Seconds to wait for an answer, or for the next piece of a file.",
    "schema": {"type": ["number", "null"], "minimum": 0, "default": 60},
}

HADOOP_SETTINGS: dict[str, Any] = {
    "label": "Options",
    "description": 'Hadoop\'s settings by their names, as `hadoop fs -D` has them, such as {"dfs.replication": "2"}.',
    "schema": {"type": ["object", "null"]},
}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
