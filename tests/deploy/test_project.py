"""A project is read as a whole, or refused with file, line and field."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.cli.init import init
from tidegate.identities import current, ensure_keys
from tidegate.processes import ProcessInfo, running
from tidegate.project import (
    State,
    address,
    check_blueprints,
    find_project,
    load_project,
    open_project,
)
from tidegate_schemas.errors import InvalidDocument, InvalidInput
from tidegate_schemas.identity import Role

AGENT = """\
team: {team}
name: {name}
version: "1"
owner: me
run: module:agent
capabilities:
  - {capability}
"""
BLUEPRINT = """\
blueprint: {name}
version: 1
steps:
  first:
    task: greeting.write
    with:
      name: ${{ input.name }}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project that `tidegate init` makes."""
    init(tmp_path / "hello")
    return tmp_path / "hello"


def _agent(project: Path, file: str, team: str, name: str, capability: str = "other.do") -> None:
    text = AGENT.format(team=team, name=name, capability=capability)
    (project / "agents" / file).write_text(text)


def test_the_scaffold_is_a_project(project: Path) -> None:
    """It names everybody who may connect, and what each may do."""
    found = load_project(project)
    check_blueprints(found)

    assert found.settings.project == "hello"
    assert {str(who): role for who, role in found.principals} == {
        "tidegate.gateway": Role.GATEWAY,
        "tidegate.registrar": Role.REGISTRAR,
        "tidegate.warden": Role.WARDEN,
        "tidegate.probe": Role.PROBE,
        "tidegate.notary": Role.NOTARY,
        "tidegate.coordinator": Role.COORDINATOR,
        "tidegate.operator": Role.OPERATOR,
        "tidegate.edge": Role.READER,
        "tidegate.console": Role.READER,
        "front-desk.greeter": Role.AGENT,
        "outside.website": Role.PUBLISHER,
    }
    ensure_keys(found, 1)
    who = current(found)
    registered = who.registrations().values()
    assert {m.principal: (m.role, m.capabilities) for m in registered} == {
        "front-desk.greeter": ("agent", ("greeting.write",)),
        "outside.website": ("publisher", ()),
    }
    (subscription,) = who.subscriptions()
    assert (subscription.capabilities, subscription.topics) == (("greeting.write",), ())
    assert found.limits().backlog == found.settings.server.backlog
    assert found.state.folder == project / ".tidegate"


def test_everybody_gets_a_key_and_keeps_it(project: Path) -> None:
    """Seeds are made once, for their owner's eyes only."""
    found = load_project(project)
    ensure_keys(found, 1)
    first = current(found).users()
    ensure_keys(found, 2)

    assert current(found).users() == first
    assert len({identity.public_key for identity in first}) == 11
    seeds = list((project / ".tidegate" / "keys").iterdir())
    assert {seed.stat().st_mode & 0o777 for seed in seeds} == {0o600}


def test_a_project_is_found_from_inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder or a given one may be any folder of it."""
    monkeypatch.chdir(project / "agents")

    assert find_project(project / "policy") == project
    assert open_project(None).root == project
    assert open_project(Path("..") / "policy").root == project


def test_folders_are_absolute_whatever_they_were_given_as(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes of a stack run in the project, so what they are told must not be relative."""
    monkeypatch.chdir(project.parent)
    found = load_project(Path("hello"), Path("state"))

    assert found.root == project
    assert found.state.folder == project.parent / "state"
    assert os.fspath(found.blueprints[0][0]).startswith(os.fspath(project))


def test_where_there_is_no_project_the_way_to_one_is_named(tmp_path: Path) -> None:
    """The message says where was looked, and what makes a project."""
    with pytest.raises(InvalidInput) as error:
        open_project(tmp_path)

    assert str(error.value) == (
        f"no tidegate.yaml in {tmp_path} or above; `tidegate init FOLDER` makes a project"
    )


def _bad_settings(project: Path) -> str:
    (project / "tidegate.yaml").write_text("project: hello\nserver:\n  port: 99999\n")
    return "tidegate.yaml:3: server.port: Input should be less than or equal to 65535"


def _bad_agent(project: Path) -> str:
    (project / "agents" / "greeter.yaml").write_text("team: a\nname: B\n")
    return "agents/greeter.yaml:2: name: 1 to 63 of a-z, 0-9 and -"


def _agent_twice(project: Path) -> str:
    _agent(project, "z.yaml", "front-desk", "greeter")
    return "agents/z.yaml:2: name: front-desk.greeter is in agents/greeter.yaml already"


def _capability_twice(project: Path) -> str:
    _agent(project, "z.yaml", "front-desk", "other", "greeting.write")
    return (
        "agents/z.yaml:7: capabilities[0]: greeting.write is provided by front-desk.greeter already"
    )


def _capability_twice_in_toml(project: Path) -> str:
    (project / "agents" / "z.toml").write_text(
        'team = "a"\nname = "b"\nversion = "1"\nowner = "c"\nrun = "m:a"\n'
        'capabilities = [\n  "other.do",\n  "greeting.write",\n]\n'
    )
    return (
        "agents/z.toml:8: capabilities[1]: greeting.write is provided by front-desk.greeter already"
    )


def _publisher_and_agent(project: Path) -> str:
    _agent(project, "z.yaml", "outside", "website")
    return "agents/z.yaml:2: name: outside.website is in tidegate.yaml already"


def _publisher_twice(project: Path) -> str:
    (project / "tidegate.yaml").write_text("project: hello\npublishers:\n  - a.b\n  - a.b\n")
    return "tidegate.yaml:4: publishers[1]: a.b is in tidegate.yaml already"


def _reserved_publisher(project: Path) -> str:
    (project / "tidegate.yaml").write_text("project: hello\npublishers: [tidegate.operator]\n")
    return "tidegate.yaml:2: publishers[0]: tidegate.operator: the team tidegate is the bus's own"


def _reserved_agent(project: Path) -> str:
    _agent(project, "z.yaml", "tidegate", "coordinator")
    return "agents/z.yaml:2: name: tidegate.coordinator: the team tidegate is the bus's own"


def _blueprint_twice(project: Path) -> str:
    (project / "blueprints" / "z.yaml").write_text(BLUEPRINT.format(name="greet-visitor"))
    return (
        "blueprints/z.yaml:1: blueprint: greet-visitor is in blueprints/greet-visitor.yaml already"
    )


def _unknown_task(project: Path) -> str:
    text = BLUEPRINT.format(name="z").replace("greeting.write", "greeting.sing")
    (project / "blueprints" / "z.yaml").write_text(text)
    return "blueprints/z.yaml:5: steps.first.task: no agent of this project provides greeting.sing"


def _unknown_name(project: Path) -> str:
    text = BLUEPRINT.format(name="z").replace("input.name", "inptu.name")
    (project / "blueprints" / "z.yaml").write_text(text)
    return "blueprints/z.yaml:7: steps.first.with.name: `inptu.name`: there is no `inptu` here"


def _bad_output(project: Path) -> str:
    (project / "blueprints" / "z.yaml").write_text(BLUEPRINT.format(name="z") + "output: 1 +\n")
    return "blueprints/z.yaml:8: output: "


@pytest.mark.parametrize(
    "spoil",
    [
        _bad_settings,
        _bad_agent,
        _agent_twice,
        _capability_twice,
        _capability_twice_in_toml,
        _publisher_and_agent,
        _publisher_twice,
        _reserved_publisher,
        _reserved_agent,
        _blueprint_twice,
        _unknown_task,
        _unknown_name,
        _bad_output,
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(
    project: Path, spoil: Callable[[Path], str]
) -> None:
    """People can jump to the place."""
    expected = spoil(project)

    with pytest.raises(InvalidDocument) as error:
        check_blueprints(load_project(project))

    assert str(error.value).startswith(f"{project}/{expected}")


def test_without_a_stack_there_is_no_address(tmp_path: Path) -> None:
    """Whoever wants to connect is told how a stack is started."""
    with pytest.raises(InvalidInput, match=r"no stack runs .*; start one with `tidegate up`"):
        address(State(tmp_path))


def test_what_a_dead_process_left_behind_is_not_running(tmp_path: Path) -> None:
    """The file of a process that was killed says nothing, even if its pid is taken again."""
    state = State(tmp_path)
    state.processes.mkdir()
    for name, text in (
        ("gateway.1.json", f'{{"name":"gateway","pid":{os.getpid()},"telemetry":1}}'),
        ("half.2.json", '{"name":'),
    ):
        (state.processes / name).write_text(text)

    nobody: list[ProcessInfo] = []
    assert running(state) == nobody
