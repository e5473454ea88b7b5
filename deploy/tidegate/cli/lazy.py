"""Groups of commands that import a command's module when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from .console import group


class LazyGroup(TyperGroup):
    """A worker needs no benchmarks, and nobody who publishes needs Cedar.

    A module holds a group of commands as `app`, or a function that bears the command's name, with
    underscores for hyphens.
    Contexts and commands are of the click that typer has inside, which it does not export.

    Attributes:
        modules: each command and its module, in the order of the help.
        package: where the modules are.
    """

    modules: ClassVar[Mapping[str, str]]
    package: ClassVar[str]

    def list_commands(self, ctx: Any) -> list[str]:
        """All of them; none is imported."""
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported now."""
        if cmd_name not in self.modules:
            return None
        module = importlib.import_module(f".{self.modules[cmd_name]}", self.package)
        if hasattr(module, "app"):
            command = typer.main.get_command(module.app)
        else:
            single = group()
            single.command(cmd_name)(getattr(module, cmd_name.replace("-", "_")))
            command = typer.main.get_command(single)
        command.name = cmd_name
        return command
