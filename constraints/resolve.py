"""Resolves what the project needs on this Python, and writes the versions beside this file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    """Resolve in an empty environment, so that nothing which happens to be installed has a say."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory() as temporary:
        venv.create(temporary, with_pip=True)
        pip = [f"{temporary}/bin/python", "-m", "pip", "install", "--quiet"]
        report = Path(temporary, "report.json")
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        subprocess.run(
            [*pip, "--dry-run", "--report", str(report), "--editable", ".[demo]", "--group", "dev", "--group", "test"],
            check=True,
            cwd=FOLDER.parent,
        )
        installed = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    pins = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in installed}
    del pins["airflow-serving-reload"]
    header = f"# What the project resolves to on Python {version}; made by `make constraints`.\n"
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins)]
    (FOLDER / f"python-{version}.txt").write_text(header + "".join(lines))


if __name__ == "__main__":
    main()
