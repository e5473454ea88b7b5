"""Packages of npm that tests use, installed where and when they are needed, exactly as locked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

INSTALL_SECONDS = 120


def install(sources: Path, folder: Path) -> Path:
    """Copy a folder with a `package-lock.json` to a new one, and install what that locks."""
    shutil.copytree(sources, folder, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=folder,
        # Some packages ask for a later Node than they need.
        env={
            **os.environ,
            "npm_config_update_notifier": "false",
            "npm_config_engine_strict": "false",
        },
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return folder
