"""A project: the folder that people keep under version control, and the state beside it.

tidegate.yaml   agents/*.yaml   blueprints/*.yaml   policy/*.cedar      what people write
.tidegate/                                                              what the stack keeps
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidegate_bus.accounts import GATEWAY, REGISTRAR, Identity, Role
from tidegate_bus.keyring import Keyring
from tidegate_bus.topology import Limits, Subscription
from tidegate_policy.bundle import Member
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.documents import load
from tidegate_schemas.errors import InvalidDocument, InvalidInput, Problem
from tidegate_schemas.manifest import Manifest
from tidegate_schemas.settings import Settings
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import COORDINATOR, OPERATOR

SETTINGS = "tidegate.yaml"


@dataclass(frozen=True, slots=True)
class State:
    """Where a running stack keeps what nobody writes by hand."""

    folder: Path

    @property
    def keyring(self) -> Keyring:
        """Seeds of all principals."""
        return Keyring(self.folder / "keys")

    @property
    def store(self) -> Path:
        """Streams of the broker."""
        return self.folder / "jetstream"

    @property
    def server_configuration(self) -> Path:
        """Configuration of the broker."""
        return self.folder / "nats.conf"

    @property
    def bundle(self) -> Path:
        """Policy bundle that the gateway loads."""
        return self.folder / "bundle"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.folder / "logs"

    @property
    def processes(self) -> Path:
        """One file a process that is ready: its pid and where it serves telemetry."""
        return self.folder / "run"

    @property
    def address(self) -> Path:
        """Where the broker listens, for other commands."""
        return self.folder / "address"


@dataclass(frozen=True, slots=True)
class Project:
    """A project, read and checked."""

    root: Path
    settings: Settings
    manifests: tuple[Manifest, ...]
    blueprints: tuple[tuple[Path, Blueprint], ...]
    """Each with its file."""
    policies: tuple[Path, ...]
    state: State

    @property
    def principals(self) -> Iterator[tuple[Principal, Role]]:
        """Everybody who may connect."""
        yield GATEWAY, Role.GATEWAY
        yield REGISTRAR, Role.REGISTRAR
        yield COORDINATOR, Role.COORDINATOR
        yield OPERATOR, Role.OPERATOR
        for manifest in self.manifests:
            yield manifest.principal, Role.AGENT
        for publisher in self.settings.publishers:
            yield Principal.parse(publisher), Role.PUBLISHER

    def identities(self) -> list[Identity]:
        """Everybody with a public key; seeds are made where there are none."""
        keyring = self.state.keyring
        return [Identity(who, role, keyring.ensure(who)) for who, role in self.principals]

    def roster(self) -> list[Member]:
        """Everybody who may submit."""
        capabilities = {str(m.principal): m.capabilities for m in self.manifests}
        return [
            Member(str(who), role.value, capabilities.get(str(who), ()))
            for who, role in self.principals
            if role not in (Role.GATEWAY, Role.REGISTRAR)
        ]

    def subscriptions(self) -> list[Subscription]:
        """What the broker delivers to the agents."""
        return [
            Subscription(m.principal, m.capabilities, m.subscribes, m.lease) for m in self.manifests
        ]

    def limits(self) -> Limits:
        """Sizes of the streams."""
        server = self.settings.server
        return Limits(server.ledger_bytes, server.ingress_bytes, server.backlog)


def find_project(start: Path) -> Path:
    """The folder with `tidegate.yaml`: `start` or the nearest one above it.

    Raises:
        InvalidInput: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / SETTINGS).is_file():
            return folder
    raise InvalidInput(
        f"no {SETTINGS} in {start.resolve()} or above; `tidegate init NAME` makes a project"
    )


def load_project(root: Path, state: Path | None = None) -> Project:
    """Read a project and check what its files say of each other.

    Args:
        root: the folder with `tidegate.yaml`.
        state: where the stack keeps its state; `.tidegate` in the folder by default.

    Raises:
        InvalidDocument: a file does not hold what it must, or two claim the same.
    """
    settings = load(root / SETTINGS, Settings)
    manifests: dict[str, Manifest] = {}
    claimed: dict[str, str] = {}
    for path in _files(root / "agents"):
        manifest = load(path, Manifest)
        name = str(manifest.principal)
        if name in manifests or name in settings.publishers:
            raise InvalidDocument(path, [Problem(1, "name", f"{name} is there already")])
        for capability in manifest.capabilities:
            if other := claimed.get(capability):
                message = f"{capability} belongs to {other} already; one agent provides it"
                raise InvalidDocument(path, [Problem(1, "capabilities", message)])
            claimed[capability] = name
        manifests[name] = manifest
    blueprints: dict[str, Path] = {}
    loaded: list[tuple[Path, Blueprint]] = []
    for path in _files(root / "blueprints"):
        blueprint = load(path, Blueprint)
        if other_path := blueprints.get(blueprint.blueprint):
            message = f"{blueprint.blueprint} is in {other_path.name} already"
            raise InvalidDocument(path, [Problem(1, "blueprint", message)])
        blueprints[blueprint.blueprint] = path
        loaded.append((path, blueprint))
    return Project(
        root,
        settings,
        tuple(manifests.values()),
        tuple(loaded),
        tuple(sorted((root / "policy").glob("*.cedar"))),
        State(state or root / ".tidegate"),
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
            raise InvalidDocument(path, faults)


def open_project(folder: Path | None, state: Path | None = None) -> Project:
    """The project in a folder, or the one that the current folder is in; see `load_project`."""
    return load_project(folder or find_project(Path.cwd()), state)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in (".yaml", ".yml", ".toml"))
