"""The wall around the engine, and those between its stages."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import airflow_serving_reload.delivery

NAME = airflow_serving_reload.delivery.__name__
MODULES = sorted(
    module.name.removeprefix(f"{NAME}.")
    for module in pkgutil.walk_packages(airflow_serving_reload.delivery.__path__, prefix=f"{NAME}.")
)

BESIDE_THE_WAY = {"errors", "filesystem", "requests_faults", "statuses", "stopwatch", "streams"}
"""Modules that belong to no stage: every stage may use them, and they use none."""

JOINING = {"fallback", "fetch", "pipeline", "proof", "steps", "upload"}
"""Modules that join stages."""

EXCEPTIONS = {
    "stores": {"donefile"},
    "listing": {"donefile", "stores"},
    "manifest": {"stores"},
    "transfer": {"manifest", "stores"},
}
"""Stages that need the words of another one: a store tells donefile versions, a listing proves something about them,
what is transferred is in a store, and what is remembered of it is what the store said."""


def _imported(module: str) -> set[str]:
    """Tell which parts of the engine a module imports, the types included."""
    found = find_spec(f"{NAME}.{module}")
    assert found is not None
    assert found.origin is not None
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{NAME}.").split(".")[0] for name in names if name.startswith(f"{NAME}.")}


def test_the_engine_does_not_import_airflow() -> None:
    """Every module of the engine is imported by a fresh interpreter without a trace of Airflow."""
    program = "import importlib, sys\n"
    program += "".join(f"importlib.import_module('{NAME}.{module}')\n" for module in MODULES)
    program += "print(*sorted(name for name in sys.modules if name.split('.')[0] == 'airflow'))"
    assert "pipeline" in MODULES
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", MODULES)
def test_no_stage_imports_another(module: str) -> None:
    """A stage imports itself and what lies beside the way; only the modules that join stages import them."""
    stage = module.split(".", maxsplit=1)[0]
    if stage in JOINING:
        return
    allowed = {stage, *EXCEPTIONS.get(stage, set()), *(BESIDE_THE_WAY if stage != "errors" else set())}
    assert _imported(module) <= allowed


def test_the_modules_named_here_exist() -> None:
    """What is said here of modules is said of modules that there are."""
    known = {module.split(".")[0] for module in MODULES}
    assert known >= BESIDE_THE_WAY | JOINING | EXCEPTIONS.keys()
