"""`tidegate init`."""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from tidegate_schemas.errors import InvalidInput

from .console import out

_TEMPLATE = files("tidegate").joinpath("template")


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name becomes the project's.")],
) -> None:
    """Make a small working project: an agent, its manifest, policy, a blueprint and tests."""
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput(f"{folder} is not empty; nothing was written")
    name = re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-")[:63] or "project"
    with as_file(_TEMPLATE) as template:
        for source in sorted(template.rglob("*")):
            if source.is_dir() or "__pycache__" in source.parts:
                continue
            target = folder / source.relative_to(template).as_posix().replace("dot-", ".")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text("utf-8").replace("PROJECT", name), "utf-8")
            out.print(f"  {target}")
    out.print(f"\nNext: cd {folder} && tidegate up, and in a second shell there:")
    out.print("""  tidegate publish greeting.requested '{"name": "Ada"}'""")
    out.print("  tidegate ledger tail")
