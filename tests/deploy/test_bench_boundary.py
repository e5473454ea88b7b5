"""The benchmark of the account boundary, run small: what it compares, and what it counts."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support import AGENT, CAPABILITY, LIMITS, Raw, until
from support.broker import ROLES
from tidegate.bench.boundary import Plan, Row, boundary, one_account
from tidegate.cli import main
from tidegate_bus.broker import topology
from tidegate_bus.broker.accounts import REGISTRAR, Identity, configuration
from tidegate_bus.broker.server import Server
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.connection import connect
from tidegate_bus.identity.keyring import Keyring
from tidegate_schemas.subjects import ledger_stream
from tidegate_schemas.vocabulary import GATEWAY

SMALL = Plan(publishes=100, awaited=20, deliveries=200, hands=10, pulls=50)
SPEEDS = [
    "published many at once",
    "one awaited publish p50",
    "one awaited publish p99",
    "delivered",
]


async def measured(state: Path, plan: Plan) -> tuple[dict[str, Row], list[int]]:
    """The rows of a run by name, and its progress."""
    progress: list[int] = []
    rows = await boundary(state, plan, progress.append)
    assert len(rows) == len({row.name for row in rows})
    return {row.name: row for row in rows}, progress


async def test_both_brokers_do_the_same_in_the_same_rounds(tmp_path: Path) -> None:
    """Every number is there for both, speeds for each round, memory as often as it is looked at."""
    rows, progress = await measured(tmp_path, SMALL)

    for name in SPEEDS:
        assert len(rows[name].boundary) == len(rows[name].one_account) == 10
        assert all(value > 0 for value in rows[name].boundary + rows[name].one_account)
        with_, without = rows[name].figures
        assert rows[name].ratio == with_.value / without.value
    looked = ["before deliveries", *(f"after {n} deliveries" for n in (20, 100, 200))]
    for when in (*looked, "after 50 tiny pulls", "after the client has left"):
        for what in ("memory", "live heap"):
            assert min(rows[f"{what} {when}"].boundary + rows[f"{what} {when}"].one_account) > 1
    assert all(math.isfinite(figure.value) for row in rows.values() for figure in row.figures)
    assert progress == sorted(progress)
    assert progress[-1] == SMALL.messages


async def test_what_is_held_is_what_was_pulled_across_the_boundary(tmp_path: Path) -> None:
    """One entry a pull request, whatever it brought, until its client leaves; none without."""
    rows, _ = await measured(tmp_path, SMALL)
    (pulls,) = rows["pull requests for 200 deliveries"].boundary
    held = {
        name.removeprefix("requests held "): row
        for name, row in rows.items()
        if name.startswith("requests held ")
    }

    assert 20 <= pulls <= 200  # ten hands
    assert {when: row.boundary for when, row in held.items()} == {
        "after them": (pulls,),
        "after 50 tiny pulls": (pulls + 50,),
        "after the client has left": (pulls,),
    }
    assert {row.one_account for row in held.values()} == {(0,)}
    assert held["after them"].ratio is None


async def test_what_is_held_is_forgotten_when_its_time_is_over(tmp_path: Path) -> None:
    """With all clients still there."""
    rows, _ = await measured(tmp_path, replace(SMALL, expiry=True, threshold=1))

    assert rows["all requests forgotten after"].boundary > (0.0,)
    assert rows["requests held after that"].boundary == (0,)
    assert rows["memory after that"].boundary > (1.0,)


def _configuration(folder: Path) -> tuple[Keyring, str]:
    keyring = Keyring(folder / "keys")
    identities = [Identity(who, role, keyring.ensure(who)) for who, role in ROLES.items()]
    return keyring, configuration(identities, store=folder / "jetstream", store_bytes=2**32)


def test_only_the_boundary_is_taken_away(tmp_path: Path) -> None:
    """The same users with the same permissions, and nothing else differs."""
    _, text = _configuration(tmp_path)
    product, changed = json.loads(text), json.loads(one_account(text))
    with_, without = product.pop("accounts"), changed.pop("accounts")

    assert product == changed
    assert set(without) == {"SYS", "BUS"}
    assert without["BUS"]["users"] == with_["BUS"]["users"] + [
        user for name in with_ if name not in without for user in with_[name]["users"]
    ]
    assert set(without["BUS"]) == {"jetstream", "users"}


async def test_without_the_boundary_a_reply_subject_writes_into_the_ledger(tmp_path: Path) -> None:
    """Which is why that configuration is called unsafe, and is in no product."""
    keyring, text = _configuration(tmp_path)
    file = tmp_path / "nats.conf"
    file.write_text(one_account(text))
    async with (
        await Server.start(file, tmp_path / "server.log") as server,
        await connect(server.url, REGISTRAR, keyring.seed(REGISTRAR)) as registrar,
        await connect(server.url, GATEWAY, keyring.seed(GATEWAY)) as gateway,
    ):
        await topology.converge(registrar, LIMITS, [Subscription(AGENT, (CAPABILITY,), (), 2.0)])
        raw = await Raw.open(server.url, keyring.seed(AGENT))
        await raw.publish("in.team.agent", b"{}", "ledger.0.allow.task.work.do")

        async def written() -> bool:
            return (await gateway.stream_state(ledger_stream(0))).last_seq == 1

        await until(written)
        await raw.close()


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_shows_them_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """A table for people; with --json all rounds, and what it ran on."""
    sizes = {"publishes": 100, "awaited": 20, "deliveries": 200, "pulls": 50, "hands": 10}
    options = [f"--{name}={value}" for name, value in sizes.items()] + ["--json"] * as_json
    monkeypatch.setattr(sys, "argv", ["tidegate", "bench", "boundary", *options])
    try:
        status = main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    shown = capsys.readouterr().out

    assert status == 0
    if not as_json:
        assert "without (unsafe)" in shown
        assert all(name in shown for name in SPEEDS)
        return
    body = json.loads(shown)
    assert body["bench"] == "boundary"
    assert "nats-server" in body["machine"]
    figures = {figure["name"]: figure for figure in body["figures"]}
    assert set(figures["delivered"]) == {
        *("name", "unit", "boundary", "one_account", "ratio", "rounds")
    }
    assert len(figures["delivered"]["rounds"]["boundary"]) == 10
    assert figures["requests held after them"]["ratio"] is None
