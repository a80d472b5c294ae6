"""Resolves what the project needs on each Python that it supports, and writes the versions beside this file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

FOLDER = Path(__file__).parent
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = ("demo", "hdfs", "hdfs-native", "s3", "sftp")
GROUPS = ("dev", "test")


def main() -> None:
    """Resolve from nothing, so that nothing which happens to be installed has a say."""
    with tempfile.TemporaryDirectory() as temporary:
        venv.create(temporary, with_pip=True)
        python = f"{temporary}/bin/python"
        wanted = [*(f"--extra={name}" for name in EXTRAS), *(f"--group={name}" for name in GROUPS)]
        # pip needs the better part of an hour for what some of the clients want of one another
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        for version in VERSIONS:
            resolve = [python, "-m", "uv", "pip", "compile", "--quiet", "--python-version", version, "--no-annotate"]
            pins = subprocess.run(
                [*resolve, "--no-header", *wanted, "pyproject.toml"],
                check=True,
                cwd=FOLDER.parent,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            header = f"# What the project resolves to on Python {version}; made by `make constraints`.\n"
            lines = [line for line in pins.splitlines(keepends=True) if not line.startswith(("-e", "airflow-serving"))]
            (FOLDER / f"python-{version}.txt").write_text(header + "".join(lines))
            sys.stdout.write(f"{version}: {len(lines)} packages\n")


if __name__ == "__main__":
    main()
