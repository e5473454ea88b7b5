"""Parts as units of systemd. Pure: nothing is read or written here."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tidegate.processes import CANNOT_START, DAMAGED
from tidegate.project import Project

from .parts import Part, parts
from .text import binds, command, paths, plain

_RESTART_SECONDS = 1
_CALLS = "@system-service"
_NO_CALLS = "~@privileged @resources"


@dataclass(frozen=True, slots=True)
class Manager:
    """Whose services they are.

    Attributes:
        owner: the user of the operating system that they run as; None for the services of a user,
            who has a systemd of their own.
        python: the interpreter that has Tidegate installed.
    """

    owner: str | None
    python: str = sys.executable


def stem(project: Project) -> str:
    """What the names of all units of a project begin with."""
    return f"tidegate-{project.settings.project}"


def unit_name(project: Project, part: Part) -> str:
    """Name of the unit of a part."""
    return f"{stem(project)}-{part.name}.service"


def target_name(project: Project) -> str:
    """Name of the unit that stands for all of them."""
    return f"{stem(project)}.target"


def mark(project: Project) -> str:
    """A line in every unit of a project: its state is nobody else's."""
    return f"X-State={plain(project.state.folder)}"


def units(project: Project, manager: Manager) -> dict[str, str]:
    """The units of a project: text by name.

    Raises:
        InvalidInput: a path cannot be written in a unit.
    """
    every = parts(project)
    found = {target_name(project): _target(project, manager, every)}
    return found | {unit_name(project, part): _service(project, manager, part) for part in every}


def _target(project: Project, manager: Manager, every: list[Part]) -> str:
    return f"""\
# All of {project.settings.project}: start, stop and enable this one.

[Unit]
Description=Tidegate {project.settings.project}
Wants={" ".join(unit_name(project, part) for part in every)}

[Install]
WantedBy={"default.target" if manager.owner is None else "multi-user.target"}

[X-Tidegate]
{mark(project)}
"""


def _service(project: Project, manager: Manager, part: Part) -> str:
    """The text of a service: what it is, how it runs, what it may touch."""
    return "\n".join(
        [
            f"# {part.name}: {part.does}.",
            "",
            *_unit(project, part),
            "",
            *_run(project, manager, part),
            "",
            *_files(project, part),
            "",
            *_network(part),
            "",
            *_rights(manager),
            "",
            "[X-Tidegate]",
            mark(project),
            "",
        ]
    )


def _unit(project: Project, part: Part) -> list[str]:
    broker, gateway = (f"{stem(project)}-{name}.service" for name in ("broker", "gateway"))
    lines = [
        "[Unit]",
        f"Description=Tidegate {project.settings.project}: {part.name}",
        f"PartOf={target_name(project)}",
    ]
    if part.waits:
        lines += [
            "# Those are ready when identities are let in and policies in force, and stop after it",
            "# does. In between they may go and come again: who is connected waits.",
            f"Wants={broker}",
            f"After={broker} {gateway}",
        ]
    return [*lines, "# It is started again for as long as it takes.", "StartLimitIntervalSec=0"]


def _run(project: Project, manager: Manager, part: Part) -> list[str]:
    state = project.state
    words = [manager.python, "-m", "tidegate", *part.command]
    words += ["--project", str(project.root), "--state", str(state.folder)]
    return [
        "[Service]",
        *([] if manager.owner is None else [f"User={manager.owner}"]),
        "# It says itself when it is ready; it may have to read a long ledger first.",
        "Type=notify",
        "TimeoutStartSec=infinity",
        f"WorkingDirectory={plain(project.root)}",
        f"ExecStart={command(words)}",
        "# Where to start again does not help, because what it was given is wrong or the ledger is",
        "# not the one that was signed, it is not done.",
        "Restart=on-failure",
        f"RestartSec={_RESTART_SECONDS}",
        f"RestartPreventExitStatus={CANNOT_START} {DAMAGED}",
        "# SIGTERM drains: the process ends those that it started itself.",
        "KillMode=mixed",
        f"TimeoutStopSec={part.grace:g}",
        "# The processes of the bus let each other finish where processors are few.",
        "CPUSchedulingPolicy=batch",
    ]


def _files(project: Project, part: Part) -> list[str]:
    state = project.state.folder
    lines = ["# Files: everything is read-only but what is named here.", "ProtectSystem=strict"]
    lines += ["ProtectHome=read-only", "PrivateTmp=yes", "UMask=0077"]
    if part.private:
        return [
            *lines,
            "# Of the state it sees this and nothing else: its own key, no other. After",
            "# `tidegate identity rotate` it must be restarted to see the new one.",
            f"TemporaryFileSystem={paths([state])}:ro",
            f"BindPaths={paths(part.writes)}",
            f"BindReadOnlyPaths={binds(part.reads)}",
        ]
    lines.append(f"ReadWritePaths={paths(part.writes)}")
    if part.reads:
        lines.append(f"ReadOnlyPaths={paths(part.reads, optional=True)}")
    if part.hidden:
        lines.append(f"InaccessiblePaths={paths(part.hidden, optional=True)}")
    return lines


def _network(part: Part) -> list[str]:
    lines = ["# Network.", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"]
    if part.local:
        lines += ["# It speaks with this machine only.", "IPAddressDeny=any"]
        lines += ["IPAddressAllow=localhost"]
    return lines


def _rights(manager: Manager) -> list[str]:
    lines = [
        "# Rights: none beyond those of its user, and no system call that it does not need.",
        "NoNewPrivileges=yes",
        "PrivateUsers=yes",
        "LockPersonality=yes",
        "MemoryDenyWriteExecute=yes",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        f"SystemCallFilter={_CALLS}",
        f"SystemCallFilter={_NO_CALLS}",
        "SystemCallErrorNumber=EPERM",
    ]
    if manager.owner is not None:  # a user's systemd may not do these
        lines += [
            "CapabilityBoundingSet=",
            "DevicePolicy=closed",
            "KeyringMode=private",
            "PrivateDevices=yes",
            "ProcSubset=pid",
            "ProtectClock=yes",
            "ProtectControlGroups=yes",
            "ProtectHostname=yes",
            "ProtectKernelLogs=yes",
            "ProtectKernelModules=yes",
            "ProtectKernelTunables=yes",
            "ProtectProc=invisible",
            "RemoveIPC=yes",
        ]
    return lines
