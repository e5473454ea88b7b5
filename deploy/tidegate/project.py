"""A project: the folder that people keep under version control, and the state beside it.

tidegate.yaml   agents/*.yaml   blueprints/*.yaml   policy/             what people write
.tidegate/                                                              what the stack keeps
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate_bus.broker.accounts import NOTARY, PROBE, REGISTRAR, WARDEN
from tidegate_bus.broker.tls import server_block
from tidegate_bus.broker.topology import Limits
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.identity.register import Register
from tidegate_schemas.errors import InvalidDocument, InvalidInput, NoStack, Problem
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import CONSOLE, COORDINATOR, EDGE, GATEWAY, OPERATOR

if TYPE_CHECKING:  # whoever only publishes pays neither for pydantic nor for cedar
    from tidegate_schemas.blueprint import Blueprint
    from tidegate_schemas.manifest import Manifest
    from tidegate_schemas.settings import Settings

SETTINGS = "tidegate.yaml"
SANDBOX = "TIDEGATE_SANDBOX"
"""Set in the environment of agents to which messages of the past are delivered again."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a running stack keeps what nobody writes by hand."""

    folder: Path

    @property
    def keyring(self) -> Keyring:
        """Seeds of all principals."""
        return Keyring(self.keyring_folder)

    @property
    def keyring_folder(self) -> Path:
        """Where they are."""
        return self.folder / "keys"

    @property
    def register(self) -> Register:
        """Identities, by their public keys."""
        return Register(self.folder / "identities.json")

    @property
    def tokens(self) -> Path:
        """What callers over HTTP show, as digests."""
        return self.folder / "tokens.json"

    @property
    def authority(self) -> Path:
        """Keys that sign, in operator mode; whoever can read them can be anybody."""
        return self.folder / "authority"

    @property
    def mode(self) -> Path:
        """How the broker learns who may connect, since the ledger was made."""
        return self.folder / "mode"

    @property
    def applied(self) -> Path:
        """Which state of the register is in force."""
        return self.folder / "applied.json"

    @property
    def vault(self) -> Path:
        """Keys of data subjects; the gateway's, and in no other backup than one that forgets."""
        return self.folder / "vault.db"

    @property
    def store(self) -> Path:
        """Streams of the broker."""
        return self.folder / "jetstream"

    @property
    def server_configuration(self) -> Path:
        """Configuration of the broker."""
        return self.folder / "nats.conf"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.folder / "logs"

    @property
    def server_log(self) -> Path:
        """What the broker says; one that is full has a successor, and a date in its name."""
        return self.logs / "server.log"

    @property
    def processes(self) -> Path:
        """One file a process that is ready: its pid and where it serves telemetry."""
        return self.folder / "run"

    @property
    def address(self) -> Path:
        """Where the broker listens, for other commands."""
        return self.folder / "address"

    @property
    def edge_url(self) -> Path:
        """Where the HTTP edge listens."""
        return self.folder / "edge.url"

    @property
    def console_url(self) -> Path:
        """Where the console listens."""
        return self.folder / "console.url"

    @property
    def index(self) -> Path:
        """What is looked up in the ledger by other things than its sequence; can be made anew."""
        return self.folder / "index.db"

    @property
    def memory(self) -> Path:
        """What the console knew of the ledger when it ended, see `console.memory`."""
        return self.folder / "console.memory"

    @property
    def evidence(self) -> Path:
        """What proves the ledger, and the keys that sign it."""
        return self.folder / "evidence"

    @property
    def evidence_keys(self) -> Path:
        """Secret keys that sign evidence, see `evidence_keys.SigningKeys`."""
        return self.evidence / "keys"

    @property
    def trust(self) -> Path:
        """Public keys, and how many witnesses must have signed (C2SP tlog-policy)."""
        return self.evidence / "trust"

    @property
    def writer(self) -> Path:
        """What the gateway keeps of the tree that it signs."""
        return self.evidence / "writer"

    @property
    def notary(self) -> Path:
        """Checkpoints, tiles and alarms."""
        return self.evidence / "notary"

    @property
    def sources(self) -> Path:
        """How far each source of events got, a file each."""
        return self.folder / "sources"

    @property
    def tls(self) -> Path:
        """Certificates, if the project does not name another folder."""
        return self.folder / "tls"

    @property
    def tls_location(self) -> Path:
        """Which folder of certificates the running stack uses, for other commands."""
        return self.folder / "tls.location"


@dataclass(frozen=True, slots=True)
class Project:
    """A project, read and checked."""

    root: Path
    settings: Settings
    manifests: tuple[Manifest, ...]
    blueprints: tuple[tuple[Path, Blueprint], ...]
    """Each with its file."""
    state: State

    @property
    def policy(self) -> Path:
        """Folder of the policy bundle."""
        return self.root / "policy"

    @property
    def principals(self) -> Iterator[tuple[Principal, Role]]:
        """Everybody whom the project declares, and the bus's own."""
        yield GATEWAY, Role.GATEWAY
        yield REGISTRAR, Role.REGISTRAR
        yield WARDEN, Role.WARDEN
        yield NOTARY, Role.NOTARY
        yield PROBE, Role.PROBE
        yield COORDINATOR, Role.COORDINATOR
        yield OPERATOR, Role.OPERATOR
        yield EDGE, Role.READER
        yield CONSOLE, Role.READER
        for manifest in self.manifests:
            yield manifest.principal, Role.AGENT
        for publisher in self.settings.publishers:
            yield Principal.parse(publisher), Role.PUBLISHER

    def limits(self) -> Limits:
        """Sizes of the streams."""
        server = self.settings.server
        return Limits(server.ledger_bytes, server.ingress_bytes, server.backlog)

    @property
    def tls_folder(self) -> Path:
        """Where certificates are, see `tidegate_bus.broker.tls`."""
        named = self.settings.server.tls_folder
        return self.root / named if named else self.state.tls

    def server_tls(self) -> dict[str, Any] | None:
        """The block `tls` of the broker's configuration; None where it is off.

        Raises:
            InvalidInput: the certificates are not as they should be.
        """
        wanted = self.settings.server.tls
        if wanted == "off":
            return None
        return server_block(self.tls_folder, mutual=wanted == "mutual")


def find_project(start: Path) -> Path:
    """The folder with `tidegate.yaml`: `start` or the nearest one above it.

    Raises:
        InvalidInput: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / SETTINGS).is_file():
            return folder
    raise InvalidInput(
        f"no {SETTINGS} in {start.resolve()} or above; `tidegate init FOLDER` makes a project"
    )


def address(state: State) -> str:
    """Where the broker of a running stack listens.

    Raises:
        NoStack: no stack is running here.
    """
    try:
        return state.address.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise NoStack(
            f"no stack runs with its state in {state.folder}; start one with `tidegate up`"
        ) from None


def client_tls(state: State) -> Path | None:
    """The folder of certificates for clients of a running stack; None where TLS is off.

    Needs the state only: whoever just publishes does not read the project.

    Raises:
        NoStack: no stack is running here.
    """
    if not address(state).startswith("tls://"):
        return None
    try:
        return Path(state.tls_location.read_text("utf-8").strip("\n"))
    except OSError:
        return state.tls


def load_project(root: Path, state: Path | None = None) -> Project:
    """Read a project and check what its files say of each other.

    Args:
        root: the folder with `tidegate.yaml`.
        state: where the stack keeps its state; `.tidegate` in the folder by default.

    Raises:
        InvalidDocument: a file does not hold what it must, or two claim the same.
    """
    from tidegate_schemas.blueprint import Blueprint
    from tidegate_schemas.documents import load
    from tidegate_schemas.manifest import Manifest
    from tidegate_schemas.settings import Settings

    root = root.absolute()
    settings = load(root / SETTINGS, Settings)
    known: dict[str, str] = {}
    for index, publisher in enumerate(settings.publishers):
        problem = _taken(publisher, known, f"publishers[{index}]")
        if problem:
            raise placed(root / SETTINGS, [problem])
        known[publisher] = SETTINGS
    manifests: list[Manifest] = []
    claimed: dict[str, str] = {}
    for path in _files(root / "agents"):
        manifest = load(path, Manifest)
        name = str(manifest.principal)
        problems = [_taken(name, known, "name")]
        problems += [
            Problem(0, f"capabilities[{index}]", f"{capability} is provided by {other} already")
            for index, capability in enumerate(manifest.capabilities)
            if (other := claimed.setdefault(capability, name)) != name
        ]
        if faults := [problem for problem in problems if problem]:
            raise placed(path, faults)
        known[name] = f"agents/{path.name}"
        manifests.append(manifest)
    written: dict[str, str] = {}
    blueprints: list[tuple[Path, Blueprint]] = []
    for path in _files(root / "blueprints"):
        blueprint = load(path, Blueprint)
        other = written.setdefault(blueprint.blueprint, path.name)
        if other != path.name:
            message = f"{blueprint.blueprint} is in blueprints/{other} already"
            raise placed(path, [Problem(0, "blueprint", message)])
        blueprints.append((path, blueprint))
    return Project(
        root,
        settings,
        tuple(manifests),
        tuple(blueprints),
        State((state or root / ".tidegate").absolute()),
    )


def check_blueprints(project: Project) -> None:
    """Check what blueprints say of their expressions and of the agents.

    Apart from `load_project`, because CEL costs memory that gateway and workers do without.

    Raises:
        InvalidDocument: an expression does not compile, or nobody provides a step's task.
    """
    from tidegate_agents.expression import problems

    provided = {c for manifest in project.manifests for c in manifest.capabilities}
    for path, blueprint in project.blueprints:
        faults = problems(blueprint)
        for name, step in blueprint.steps.items():
            if step.task not in provided:
                message = f"no agent of this project provides {step.task}"
                faults.append(Problem(0, f"steps.{name}.task", message))
        if faults:
            raise placed(path, faults)


def open_project(folder: Path | None, state: Path | None = None) -> Project:
    """The project that a folder is in, by default the current one; see `load_project`."""
    return load_project(find_project(folder or Path.cwd()), state)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in (".yaml", ".yml", ".toml"))


def _taken(name: str, known: dict[str, str], field: str) -> Problem | None:
    """What is wrong with the name of one more principal."""
    if Principal.parse(name).team == OPERATOR.team:
        return Problem(0, field, f"{name}: the team {OPERATOR.team} is the bus's own")
    return Problem(0, field, f"{name} is in {known[name]} already") if name in known else None


def placed(path: Path, problems: Iterable[Problem]) -> InvalidDocument:
    """Faults of a file that could be read, with the line of the field of each."""
    from tidegate_schemas.documents.location import dotted
    from tidegate_schemas.documents.toml import read_toml
    from tidegate_schemas.documents.yaml import read_yaml

    text = path.read_text("utf-8-sig")
    _, places = (read_toml if path.suffix == ".toml" else read_yaml)(text, path)
    lines = {dotted(at): line for at, line in places.items()}

    def line_of(field: str) -> int:
        while field and field not in lines:
            field = re.sub(r"(^|\.)[^.\[]*$|\[\d+\]$", "", field)
        return lines.get(field, 0)

    return InvalidDocument(path, [replace(p, line=line_of(p.field)) for p in problems])
