"""A bundle as its author keeps it: a folder.

`*.cedar`, and if there are any `facts.yaml`, `entities.json` and `tests/*.yaml`. Every file is read
once, so what is loaded is what the digest stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tidegate_schemas.errors import InvalidPolicy

from . import facts, groups
from .contents import Bundle, examine
from .faults import Fault

_LOOKALIKES = ("facts.yml", "facts.json", "facts.toml", "entities.yaml", "entities.yml")


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle.

    Raises:
        InvalidPolicy: a file is missing or unreadable, or the bundle cannot be enforced. Every
            fault is named with its file and line.
    """
    files, faults = read_folder(folder)
    bundle, found = examine(files)
    faults += (fault for fault in found if not (fault.file == "" and faults and not files))
    if bundle is None or faults:
        raise InvalidPolicy([fault.told(folder) for fault in sorted(set(faults))])
    return bundle


def read_folder(folder: Path) -> tuple[dict[str, str], list[Fault]]:
    """The files of a bundle by name, and those that cannot be read or would be left out.

    A schema that lies there is not read: it follows from the other files.
    """
    files: dict[str, str] = {}
    faults: list[Fault] = []
    for path in _paths(folder):
        name = path.relative_to(folder).as_posix()
        try:
            files[name] = path.read_bytes().decode()
        except OSError as error:
            faults.append(Fault(name, 0, error.strerror or str(error)))
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            faults.append(Fault(name, line, f"not UTF-8 at byte {error.start}"))
    for path in [folder / name for name in _LOOKALIKES] + sorted((folder / "tests").glob("*.yml")):
        if path.exists():
            name = path.relative_to(folder).as_posix()
            named = "facts.yaml" if name.startswith("facts") else "entities.json"
            named = f"{name[:-4]}.yaml" if name.startswith("tests") else named
            faults.append(Fault(name, 0, "would be ignored", f"call it {named}"))
    for path in sorted(folder.glob("*/*.cedar")):
        name = path.relative_to(folder).as_posix()
        faults.append(Fault(name, 0, "would be ignored", "policies are in no folder of their own"))
    return files, faults


def _paths(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.cedar"))
    for name in (facts.NAME, groups.NAME):
        if (folder / name).exists():
            yield folder / name
    yield from sorted((folder / "tests").glob("*.yaml"))
