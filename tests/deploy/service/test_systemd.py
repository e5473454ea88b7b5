"""Units in a folder: what is written, what is removed, and what is let alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.service.systemd import carry_out, changes
from tidegate_schemas.errors import InvalidInput

MARK = "X-State=/srv/hello/.tidegate"
BEGIN = "tidegate-hello"


def unit(text: str = "[Service]", mark: str = MARK) -> str:
    """The text of a unit of a project."""
    return f"{text}\n{mark}\n"


def install(folder: Path, texts: dict[str, str]) -> dict[str, str]:
    """Bring a folder to these units; what was done."""
    what = changes(folder, texts, BEGIN, MARK)
    carry_out(folder, texts, what)
    return what


def test_only_what_differs_is_written_and_what_is_not_wanted_goes(tmp_path: Path) -> None:
    """Units of agents that are gone are removed, all others stay as they are."""
    folder = tmp_path / "units"
    first = {f"{BEGIN}.target": unit(), f"{BEGIN}-a.service": unit(), f"{BEGIN}-b.service": unit()}
    install(folder, first)
    second = {f"{BEGIN}.target": unit(), f"{BEGIN}-a.service": unit("[Unit]")}

    assert install(folder, second) == {
        f"{BEGIN}.target": "",
        f"{BEGIN}-a.service": "write",
        f"{BEGIN}-b.service": "remove",
    }
    assert {path.name for path in folder.iterdir()} == second.keys()
    assert install(folder, {}) == dict.fromkeys(second, "remove")
    assert not [*folder.iterdir()]


def test_units_of_others_are_let_alone(tmp_path: Path) -> None:
    """Of a project with a longer name, of one elsewhere, and what an administrator added."""
    others = {
        f"{BEGIN}-world.target": unit(mark="X-State=/srv/world/.tidegate"),
        f"{BEGIN}2.target": unit(),
        f"{BEGIN}-a.service.d": "",
        f"{BEGIN}-mine.timer": "",
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)

    install(tmp_path, {f"{BEGIN}.target": unit()})
    install(tmp_path, {})

    assert {path.name for path in tmp_path.iterdir()} == others.keys()


def test_a_project_of_the_same_name_elsewhere_is_not_overwritten(tmp_path: Path) -> None:
    """Its units have the same names, but another state."""
    (tmp_path / f"{BEGIN}.target").write_text(unit(mark="X-State=/elsewhere"))

    with pytest.raises(InvalidInput, match="not of this project"):
        install(tmp_path, {f"{BEGIN}.target": unit()})


def test_what_somebody_changed_by_hand_is_not_lost(tmp_path: Path) -> None:
    """It is said how changes are made that last."""
    name = f"{BEGIN}.target"
    install(tmp_path, {name: unit()})
    with (tmp_path / name).open("a") as file:
        file.write("# mine\n")

    with pytest.raises(InvalidInput, match=r"changed by hand: `systemctl edit UNIT` makes .* last"):
        install(tmp_path, {name: unit()})
    with pytest.raises(InvalidInput, match="changed by hand"):
        install(tmp_path, {})
