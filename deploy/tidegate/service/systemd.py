"""The folder where units are, and the commands of systemd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tidegate_bus.broker.generated import read_generated, write_generated
from tidegate_schemas.errors import InvalidInput

_LASTING = "`systemctl edit UNIT` makes them last"
_BOOTED = Path("/run/systemd/system")
"""Is there if systemd runs the machine (sd_booted(3))."""
_FACTS = ("Id", "LoadState", "ActiveState", "SubState", "NRestarts")


class Systemd:
    """That of the machine, or that of a user.

    Args:
        user: whether it is that of the user who asks.
    """

    def __init__(self, *, user: bool) -> None:
        self._options = ["--user"] if user else []
        configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        self.folder = configuration / "systemd/user" if user else Path("/etc/systemd/system")

    @property
    def runs(self) -> bool:
        """Whether there is one to ask."""
        return _BOOTED.is_dir()

    def command(self, *words: str) -> list[str]:
        """A command line of `systemctl`, for people too."""
        return ["systemctl", *self._options, *words]

    def call(self, *words: str) -> None:
        """Run `systemctl`.

        Raises:
            InvalidInput: it says no; holds its words.
        """
        _output(self.command(*words))

    def states(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """What systemd says of units: `_FACTS` by name.

        Raises:
            InvalidInput: it does not answer.
        """
        text = _output(self.command("show", f"--property={','.join(_FACTS)}", *names))
        blocks = [dict(line.split("=", 1) for line in b.splitlines()) for b in text.split("\n\n")]
        return {block["Id"]: block for block in blocks if "Id" in block}

    def journal(self, names: Sequence[str], *, follow: bool, lines: int) -> list[str]:
        """A command line that shows what units have logged."""
        units = [f"--unit={name}" for name in names]
        options = [*self._options, f"--lines={lines}", *(["--follow"] if follow else [])]
        return ["journalctl", *options, *units]


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InvalidInput(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        words = done.stderr.strip() or f"status {done.returncode}"
        raise InvalidInput(f"{' '.join(command[:3])} …: {words}")
    return done.stdout


def changes(folder: Path, texts: Mapping[str, str], begin: str, mark: str) -> dict[str, str]:
    """What has to be done to a folder so that it holds these units: `write`, `remove` or ``.

    Args:
        folder: of units.
        texts: those that are wanted, by name; none, so that all go.
        begin: what the names of all units of a project begin with.
        mark: a line that all units of this project have, and those of no other.

    Raises:
        InvalidInput: a unit that is there is not ours, or somebody has changed it.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob(f"{begin}[.-]*")):
        if path.suffix not in (".service", ".target"):
            continue
        body, intact = read_generated(path)
        if mark not in body.splitlines():
            if path.name in texts:
                raise InvalidInput(f"{path} is there already, and not of this project")
            continue
        if not intact:
            raise InvalidInput(f"{path} was changed by hand: {_LASTING}; remove it to go on")
        found[path.name] = "" if body == texts.get(path.name) else "remove"
    return dict.fromkeys(texts, "write") | {
        name: "write" if found[name] and name in texts else found[name] for name in found
    }


def carry_out(folder: Path, texts: Mapping[str, str], what: Mapping[str, str]) -> None:
    """Do what `changes` says.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, action in what.items():
        if action == "write":
            write_generated(folder / name, texts[name], lasting=_LASTING)
        elif action == "remove":
            (folder / name).unlink()
