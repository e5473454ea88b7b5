"""`tidegate init`."""

from __future__ import annotations

import re
import shlex
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from tidegate.project import SETTINGS
from tidegate_schemas.errors import InvalidInput

from .console import clean, out

_TEMPLATE = files("tidegate").joinpath("template")


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name becomes the project's.")],
) -> None:
    """Make a small working project.

    It has an agent with its manifest, policy, a blueprint and tests.
    """
    if ".." in folder.parts:  # what is there now may be elsewhere once its parents are made
        folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is there and not an empty folder; nothing was written")
    name = re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-")[:63] or "project"
    with as_file(_TEMPLATE) as template:
        for source in sorted(template.rglob("*")):
            if source.is_dir() or "__pycache__" in source.parts:
                continue
            target = folder / source.relative_to(template)
            target = target.with_name(target.name.replace("dot-", "."))
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text("utf-8")
            if target.name == SETTINGS:
                text = text.replace("PROJECT", name)
            target.write_text(text, "utf-8")
            out.print(f"  {clean(str(target))}")
    where = clean(shlex.quote(str(folder)))
    out.print(f"\nNext: cd {where} && tidegate up, and in a second shell there:")
    out.print("""  tidegate publish greeting.requested '{"name": "Ada"}'""")
    out.print("  tidegate ledger tail")
