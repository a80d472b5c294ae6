"""Puts an earlier release of the housing model back: for the trigger button."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_serving_reload.demo.example import SERVER, SERVING_PATH
from airflow_serving_reload.operators import RollbackModelOperator

with DAG(
    "model_rollback",
    dag_display_name="Housing: roll back",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["uci_housing", "serving"],
    params={
        "release": Param(
            None,
            type=["null", "string"],
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$",
            title="Release",
            description_md=(
                "The release to return to, as `release` or `previous_release` in the result of the task that "
                "delivered it. Left empty: the one that was live before the present one."
            ),
        )
    },
    doc_md="""
    ### Roll the housing model back

    Trigger it as it is to return to the release that was live before the present one. The server is asked to reload
    and has to prove that it answers with that release. The release that is given up is not delivered again by its
    old donefile; a new donefile is delivered as usual.
    """,
):
    RollbackModelOperator(
        task_id="roll_back",
        task_display_name="Put the earlier release back",
        local_path=SERVING_PATH,
        local_model_name="uci_housing_model",
        release="{{ params.release or '' }}",
        server=SERVER,
    )
