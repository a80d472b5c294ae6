"""What Airflow's provider manager learns about this package."""

from __future__ import annotations

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
