"""Who calls: tokens, certificates, rates, and principals that may not come in."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY

from tidegate.edge.callers import Caller, Callers
from tidegate.project import Project
from tidegate.tokens import Tokens
from tidegate_schemas.errors import (
    InvalidEnvelope,
    NotAdmitted,
    RateLimited,
    TidegateError,
    Unauthenticated,
    Unavailable,
)
from tidegate_schemas.identity import Role
from tidegate_schemas.rate import Rate
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import GATEWAY, OPERATOR

from .kit import WEB, made, token_of

SECOND = 1_000_000_000
MTLS = """
edge:
  tls: {certificate: a.pem, key: a.key, clients: ca.pem}
  certificates: {"CN=shop,O=Example": outside.web, "CN=\\\\C3\\\\A9": ops.gone}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with keys."""
    return made(tmp_path)


def counted(why: str) -> float:
    """How many were refused on this ground."""
    return REGISTRY.get_sample_value("tidegate_edge_refused_total", {"why": why}) or 0.0


def revoke(project: Project, name: str) -> None:
    """Lock a principal out."""
    with project.state.register.edit() as entries:
        entries[name] = msgspec.structs.replace(entries[name], revoked="2026-01-01T00:00:00Z")


async def test_a_token_is_its_principal(project: Project) -> None:
    """With the role of the register; the scheme is written as one likes (RFC 9110, 11.1)."""
    callers = Callers(project)
    shown = token_of(project)
    id = Tokens(project.state.tokens).read()[0].id
    expected = Caller(WEB, Role.PUBLISHER, f"token {id}", None)

    assert await callers.of(shown, None) == expected
    assert await callers.of(shown.replace("Bearer ", "bEARER   "), None) == expected
    operator = await callers.of(token_of(project, OPERATOR), None)
    assert (operator.principal, operator.role) == (OPERATOR, Role.OPERATOR)


async def turn() -> None:
    """Another turn of the event loop: a request that comes later is in one."""
    await asyncio.sleep(0)


WRONG = {
    "nothing": (None, "missing"),
    "empty": ("", "scheme"),
    "basic": ("Basic YTpi", "scheme"),
    "bearer alone": ("Bearer", "scheme"),
    "empty token": ("Bearer ", "unknown"),
    "foreign": ("Bearer ghp_0123", "unknown"),
    "short": ("Bearer tg_", "unknown"),
    "made up": (f"Bearer tg_{'0' * 12}_{'0' * 64}", "unknown"),
    "no text": ("Bearer tg_\udcff", "unknown"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_whoever_shows_no_token_is_nobody(project: Project, case: str) -> None:
    """It is counted by the ground, which is a word for programs."""
    shown, reason = WRONG[case]
    before = counted(reason)
    with pytest.raises(Unauthenticated) as caught:
        await Callers(project).of(shown, None)

    assert caught.value.reason == reason
    assert counted(reason) == before + 1


async def test_a_token_that_was_revoked_or_is_over_lets_nobody_in(project: Project) -> None:
    """From the next request on."""
    now = time.time_ns()
    callers = Callers(project, clock=lambda: now)
    shown = token_of(project, expires=now + SECOND)
    kept = token_of(project)
    assert await callers.of(shown, None)

    now += SECOND
    with pytest.raises(Unauthenticated, match="revoked, or has expired"):
        await callers.of(shown, None)
    assert await callers.of(kept, None)
    Tokens(project.state.tokens).revoke(kept[10:22])
    await turn()
    with pytest.raises(Unauthenticated, match="revoked, or has expired"):
        await callers.of(kept, None)


async def test_a_principal_that_was_revoked_is_told_so(project: Project) -> None:
    """Its token is good, and of no use; so is one of somebody unknown, or of the bus itself."""
    callers = Callers(project)
    shown = token_of(project)
    assert await callers.of(shown, None)

    revoke(project, "outside.web")
    await turn()
    with pytest.raises(NotAdmitted, match=r"outside\.web may not connect: unknown, revoked"):
        await callers.of(shown, None)
    with pytest.raises(NotAdmitted, match=r"no\.body may not connect"):
        await callers.of(token_of(project, Principal("no", "body")), None)
    with pytest.raises(NotAdmitted, match="is the bus's own"):
        await callers.of(token_of(project, GATEWAY), None)


async def test_a_damaged_file_lets_nobody_in(project: Project) -> None:
    """It could be the one that locks somebody out; the caller may try again."""
    callers = Callers(project)
    shown = token_of(project)
    for path in (project.state.tokens, project.state.register.path):
        assert await callers.of(shown, None)
        kept = path.read_bytes()
        path.write_text("{")
        await turn()
        with pytest.raises(Unavailable, match="cannot be found out now"):
            await callers.of(shown, None)
        path.write_bytes(kept)
        await turn()


async def test_a_certificate_is_its_principal(tmp_path: Path) -> None:
    """By its whole subject; a token that is shown too goes before it, also a wrong one."""
    callers = Callers(project := made(tmp_path, MTLS))
    found = await callers.of(None, "CN=shop,O=Example")

    assert found == Caller(WEB, Role.PUBLISHER, "certificate CN=shop,O=Example", None)
    for name in ("CN=shop", "O=Example,CN=shop", "", "CN=shop,O=Example\\,"):
        with pytest.raises(NotAdmitted, match="stands for nobody here"):
            await callers.of(None, name)
    with pytest.raises(NotAdmitted, match=r"ops\.gone may not connect"):
        await callers.of(None, "CN=\u00e9")
    other = await callers.of(token_of(project, OPERATOR), "CN=shop,O=Example")
    assert other.principal == OPERATOR
    with pytest.raises(Unauthenticated):
        await callers.of("Bearer tg_", "CN=shop,O=Example")


async def test_each_token_has_a_rate_of_its_own(tmp_path: Path) -> None:
    """What it says itself, else what the settings say; others do not notice."""
    ticks = 5 * SECOND
    project = made(tmp_path, "edge: {rate: 2/1s}")
    callers = Callers(project, ticks=lambda: ticks)
    slow, other = token_of(project), token_of(project)
    fast = token_of(project, rate="3/1s")

    async def times(shown: str) -> int:
        for done in range(10):
            try:
                await callers.of(shown, None)
            except RateLimited as error:
                assert 0 < error.retry_after <= 0.5
                return done
        return 10

    assert (await callers.of(fast, None)).rate == Rate(3, 1.0)
    assert [await times(shown) for shown in (slow, fast, other)] == [2, 2, 2]
    ticks += SECOND // 2
    assert [await times(shown) for shown in (slow, fast, other)] == [1, 1, 1]


async def test_a_batch_costs_as_much_as_its_events(project: Project) -> None:
    """Who waits as long as is said gets it in; one that never fits is told so."""
    ticks = 5 * SECOND
    callers, shown = Callers(project, ticks=lambda: ticks), token_of(project, rate="10/1s")

    async def send(events: int) -> float:
        caller = await callers.of(shown, None)
        try:
            callers.charge(caller, events)
        except RateLimited as error:
            return error.retry_after
        return 0.0

    assert [await send(4), await send(0), await send(1)] == [0, 0, 0]
    before = counted("rate")
    wait = await send(6)  # there are 4, and the request takes one of them
    assert wait == pytest.approx(0.3)
    assert counted("rate") == before + 1
    ticks += round(wait * SECOND) - 1000
    assert 0 < await send(6) < 0.2
    ticks += SECOND
    assert await send(10) == 0
    ticks += SECOND
    with pytest.raises(InvalidEnvelope, match="11 events at once, where you may send 10 in 1 s"):
        await send(11)


async def test_who_is_known_costs_microseconds(tmp_path: Path) -> None:
    """Two files are looked at for each request, and neither is read."""
    project = made(tmp_path, "edge: {rate: 1000000/1s}")
    callers, shown = Callers(project), token_of(project)
    await callers.of(shown, None)

    begin = time.perf_counter()
    for _ in range(2000):
        await callers.of(shown, None)
    assert (time.perf_counter() - begin) / 2000 < 200e-6


REFUSED_SETTINGS = {
    "rate": ("{rate: 1/}", "edge.rate: '1/' is not a rate; write 100/1s"),
    "certificates": ('{certificates: {"CN=a": a.b}}', "nobody is asked for one without `tls.cl"),
    "of the bus": ('{certificates: {"CN=a": tidegate.gateway}}', "is the bus's own"),
    "keys over http": (
        "{oidc: {issuer: a, audience: b, jwks: 'http://example.com/', principals: {a: b.c}}}",
        "edge.oidc.jwks: keys that come over plain http are anybody's",
    ),
    "nobody": ("{oidc: {issuer: a, audience: b, jwks: a, principals: {}}}", "at least 1 item"),
}
NAMES = {
    "no name": ("shop", "edge.certificates.shop: 'shop' is no subject; write it as `CN=shop,O"),
    "empty": ("", "an empty subject is anybody's"),
    "twice": ("CN=\\\\73hop", "is the same as 'CN=shop'"),
}


@pytest.mark.parametrize("case", [*REFUSED_SETTINGS, *NAMES])
def test_settings_that_would_let_in_anybody_are_refused(tmp_path: Path, case: str) -> None:
    """Or nobody; with file, line and field."""
    if case in NAMES:
        name, said = NAMES[case]
        tls = "tls: {certificate: a, key: a, clients: a}"
        text = f'{{{tls}, certificates: {{"CN=shop": a.b, "{name}": a.b}}}}'
    else:
        text, said = REFUSED_SETTINGS[case]
    with pytest.raises(TidegateError) as caught:
        made(tmp_path, f"\nedge: {text}")

    assert str(caught.value).startswith(f"{tmp_path / 'tidegate.yaml'}:5: edge.")
    assert said in str(caught.value)
