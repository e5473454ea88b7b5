"""Which processes a project has when each is a service, and what each of them may touch."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from tidegate.project import Project

_GRACE_SECONDS = 15.0
"""What a process takes to end besides what it drains: it closes its connection."""


@dataclass(frozen=True, slots=True)
class Part:
    """One process.

    Attributes:
        name: `gateway`, or `agent-<team>.<name>`.
        process: how it calls itself, see `processes.ProcessInfo`.
        command: arguments of `tidegate`.
        does: in a sentence without a full stop.
        writes: what it changes. If `private`, it is all that it sees of the state besides `reads`.
        reads: in the folders that it writes in, what it cannot change.
        hidden: what it cannot even read.
        private: whether it sees nothing of the state but what is named.
        local: whether it reaches nothing but this machine.
        waits: whether it is started once the broker's service is ready.
        grace: seconds from SIGTERM until it is killed.
    """

    name: str
    process: str
    command: tuple[str, ...]
    does: str
    writes: tuple[Path, ...]
    reads: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    private: bool = False
    local: bool = True
    waits: bool = True
    grace: float = _GRACE_SECONDS


def parts(project: Project) -> list[Part]:
    """The processes of a project, in the order in which they begin."""
    state = project.state
    raw = (state.store, state.authority)  # the broker's own files, and the keys that admit others
    secrets = (state.vault, state.evidence_keys)
    faces = (state.keyring_folder, state.evidence)
    return [
        Part(
            "broker",
            "stack",
            ("broker",),
            "runs nats-server, says who may connect and puts the project's policies in force",
            writes=(state.folder,),
            waits=False,
            grace=_GRACE_SECONDS * 2,
        ),
        Part(
            "gateway",
            "gateway",
            ("gateway",),
            "decides on every message and writes it to the ledger",
            writes=(state.folder,),
            reads=(state.keyring_folder,),
            hidden=raw,
            waits=False,
        ),
        Part(
            "notary",
            "notary",
            ("notary",),
            "reads the ledger back and cosigns what the gateway signed of it",
            writes=(state.processes, state.evidence),
            reads=(state.evidence_keys, state.writer, state.trust),
            hidden=(*raw, state.vault),
            local=not project.settings.evidence.witnesses,
        ),
        Part(
            "coordinator",
            "coordinator",
            ("coordinator",),
            "runs the workflows",
            writes=(state.processes,),
            hidden=(*raw, *secrets),
        ),
        *(
            Part(
                f"agent-{manifest.principal}",
                str(manifest.principal),
                ("agent", "run", str(manifest.principal)),
                f"a worker of {manifest.principal}, with its own key and no other",
                writes=(state.processes,),
                reads=(
                    state.address,
                    state.tls_location,
                    state.tls,
                    *state.keyring.files(manifest.principal),
                ),
                private=True,
                local=False,
                grace=_GRACE_SECONDS + manifest.drain,
            )
            for manifest in project.manifests
        ),
        Part(
            "edge",
            "edge",
            ("edge",),
            "takes events by HTTP and passes them on as who sent them",
            writes=(state.folder,),
            reads=faces,
            hidden=(*raw, *secrets),
            local=False,
        ),
        Part(
            "console",
            "console",
            ("console",),
            "shows the bus to people, in a browser",
            writes=(state.folder,),
            reads=faces,
            hidden=(*raw, *secrets),
            local=_is_local(project.settings.console.host),
        ),
    ]


def _is_local(host: str) -> bool:
    """Whether only this machine gets there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
