"""The console over HTTP, of a stack that runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncGenerator
from http.cookies import SimpleCookie

import httpx
import pytest
import pytest_asyncio

from support import until
from support.processes import alive
from tidegate.processes import running
from tidegate_policy.bundle import Bundle, load_bundle
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied
from tidegate_schemas.governance import Order, Proposal
from tidegate_schemas.record import Record
from tidegate_schemas.vocabulary import CONTROL_PAUSE, CONTROL_RESUME, POLICY_ACTIVATE

from .kit import ANN, BOB, WEBSITE, Ground, Visitor, ground, text_of, totals

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREETER = "agent:front-desk.greeter"
PAGES = ("/", "/agents", "/controls", "/policies")
CONFIRM = f"/controls/confirm?command={CONTROL_PAUSE}&target={GREETER}&back=/agents"
HOSTILE = "<script>alert(1)</script>\"' onload=x &amp;"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> AsyncGenerator[Ground]:
    """One stack for all of the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONDONTWRITEBYTECODE", "")
        patch.setenv("PYTHONPYCACHEPREFIX", str(pytestconfig.cache.mkdir("bytecode")))
        async with ground(tmp_path_factory.mktemp("console")) as made:
            yield made


async def record(here: Ground, seq: int) -> Record:
    """A record of the ledger."""
    async with await here.running.bus() as bus:
        found = await bus.ledger.one(seq)
        assert found
        return found.record()


def number(words: str) -> int:
    """The record that a notice names."""
    found = re.search(r"ledger record (\d+)", words)
    assert found, words
    return int(found[1])


async def test_a_session_is_a_cookie_that_scripts_and_other_sites_never_see(here: Ground) -> None:
    """HttpOnly, SameSite=Strict, for every path and with a name of this port's own."""
    async with here.visitor() as visitor:
        answer = await visitor.login(here.token(ANN)[1])
        cookies = [SimpleCookie(line) for line in answer.headers.get_list("set-cookie")]
        (session,) = (c for cookie in cookies for c in cookie.values() if c.value)

        assert session.key == f"tidegate_{httpx.URL(here.url).port}"
        assert (session["httponly"], session["samesite"].lower()) == (True, "strict")
        assert (session["path"], session["domain"], session["max-age"]) == ("/", "", "")
        assert answer.headers["location"] == "/"
        assert "ops.ann" in await visitor.get("/")


async def test_every_answer_forbids_what_a_page_has_no_use_for(here: Ground) -> None:
    """Pages, errors, redirects and files: a policy without exceptions, no framing, no sniffing."""
    async with here.visitor(ANN) as visitor:
        for path in (*PAGES, "/nothing", "/static/console.css", "/static/nothing", "/healthz"):
            headers = (await visitor.http.get(path)).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'self';"), path
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"
            if not path.startswith("/static/"):
                assert headers["cache-control"] == "no-store", path


async def test_a_page_asks_for_nothing_outside_and_has_nothing_inline(here: Ground) -> None:
    """Every address in a page is a path; no script or style stands in it; its files are there."""
    async with here.visitor(ANN) as visitor:
        for path in (*PAGES, CONFIRM):
            page = await visitor.get(path)
            addresses = re.findall(r'(?:href|src|action|hx-get|sse-connect)="([^"]*)"', page)
            assert [a for a in addresses if not re.match(r"/(?!/)|#", a)] == [], path
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page), path
            for file in re.findall(r'"(/static/[^"]*)"', page):
                answer = await visitor.http.get(file)
                assert answer.status_code == 200, file
                assert "immutable" in answer.headers["cache-control"]


async def test_two_tabs_can_log_in(here: Ground) -> None:
    """The form of the first is good after the second was opened; once in, both go on."""
    async with here.visitor() as visitor:
        form = {"csrf": csrf_of(await visitor.get("/login")), "token": here.token(ANN)[1]}
        other = {"csrf": csrf_of(await visitor.get("/login")), "token": form["token"]}
        first = await visitor.http.post("/login", data=form)
        second = await visitor.http.post("/login", data=other | {"next": "/ledger"})

        assert (first.status_code, first.headers["location"]) == (303, "/")
        assert (second.status_code, second.headers["location"]) == (303, "/ledger")
        assert "set-cookie" not in second.headers


def csrf_of(page: str) -> str:
    """The secret of the form of a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


async def test_to_ask_for_the_head_of_the_live_view_ends(here: Ground) -> None:
    """The same connection answers the next request."""
    async with here.visitor(ANN) as visitor:
        head = await visitor.http.head("/live", timeout=5)
        page = await visitor.http.get("/", timeout=5)

        assert head.headers["content-type"].startswith("text/event-stream")
        assert page.status_code == 200


async def test_the_text_of_policies_cannot_look_like_another(here: Ground) -> None:
    """What reorders or hides text is shown by its number: people agree to what they read here."""
    text = '@id("a") permit (principal, action, resource)\n// \u202e }; yfed\n\twhen { false };\n'
    bundle = Bundle.of_files({"main.cedar": text})
    async with await here.running.bus(str(ANN)) as ann:
        files = Proposal(dict(bundle.files))
        await ann.publish(Envelope.new("proposed", files, kind="control", to="policy.propose"))
    async with here.visitor(ANN) as visitor:

        async def shown() -> bool:
            answer = await visitor.http.get(f"/policies/bundles/{bundle.digest}")
            return answer.status_code == 200

        await until(shown)
        page = await visitor.get(f"/policies/bundles/{bundle.digest}")

    assert "// \\x202e }; yfed" in page
    assert "\u202e" not in page
    assert "    when { false };" in page


async def test_only_operators_log_in(here: Ground) -> None:
    """Not a publisher with a good token, not a revoked token, not a made up one."""
    gone, revoked = here.token(ANN)
    here.tokens.revoke(gone.id)
    async with here.visitor() as visitor:
        publisher = await visitor.login(here.token(WEBSITE)[1])
        others = [await visitor.login(text) for text in (revoked, "tg_x", "")]

        assert publisher.status_code == 401
        assert "outside.website is not an operator" in publisher.text
        assert [answer.status_code for answer in others] == [401, 401, 401]
        assert (await visitor.http.get("/")).headers["location"] == "/login"


async def test_logins_that_fail_are_limited_by_address(here: Ground) -> None:
    """After ten of them even a good token has to wait, and is told how long; others need not."""
    token = here.token(ANN)[1]
    async with Visitor(here.url, address="127.0.0.7") as guessing, here.visitor() as other:
        failed = [(await guessing.login(f"tg_{n}")).status_code for n in range(10)]
        limited = await guessing.login(token)

        assert failed == [401] * 10
        assert limited.status_code == 429
        assert 0 < int(limited.headers["retry-after"]) <= 60
        assert (await other.login(token)).status_code == 303


async def test_nobody_sees_or_does_anything_without_a_session(here: Ground) -> None:
    """Every page leads to the login, and back to where it was; a live view ends at once."""
    async with here.visitor() as visitor:
        for path in (*PAGES, "/policies/what-if/x", "/nothing"):
            answer = await visitor.http.get(path)
            assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login"), path
        assert (
            "next=%2Fagents%3Fa%3D1" in (await visitor.http.get("/agents?a=1")).headers["location"]
        )
        assert (await visitor.http.get("/live")).text == "event: over\ndata:\n\n"
        part = await visitor.http.get("/agents", headers={"HX-Request": "true"})
        assert (part.status_code, part.headers["hx-redirect"]) == (401, "/login")
        said = await visitor.http.post("/controls", data={"command": CONTROL_PAUSE})
        assert said.headers["location"] == "/login"


@pytest.mark.parametrize(
    "there", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"]
)
async def test_a_login_leads_to_no_other_site(here: Ground, there: str) -> None:
    """Where the page wanted to go is a path of the console, or it is the start page."""
    async with here.visitor() as visitor:
        page = (await visitor.http.get("/login", params={"next": there})).text
        answer = await visitor.send("/login", "/login", token=here.token(ANN)[1], next=there)

        assert 'name="next" value="/"' in page
        assert answer.headers["location"] == "/"


async def test_a_form_comes_from_a_page_of_the_console(here: Ground) -> None:
    """Without the session's secret, from another origin, or not as a form: nothing is done."""
    order = {"command": CONTROL_PAUSE, "target": GREETER}
    async with here.visitor(ANN) as visitor:
        csrf = re.findall(r'name="csrf" value="([^"]+)"', await visitor.get("/controls"))[0]
        good, post = {**order, "csrf": csrf}, visitor.http.post
        answers = [
            await post("/controls", data=order),
            await post("/controls", data={**order, "csrf": "guessed"}),
            await post("/controls", data=good, headers={"Origin": "https://evil.example"}),
            await post("/controls", data=good, headers={"Origin": "null"}),
            await post("/controls", data=good, headers={"Sec-Fetch-Site": "cross-site"}),
            await post("/controls", json=good),
            await post("/controls", data={**good, "reason": "x" * 70_000}),
            await post("/logout", data={"csrf": ""}),
        ]
        agents = text_of(await visitor.get("/agents"))

        assert [a.status_code for a in answers] == [403, 403, 403, 403, 403, 415, 413, 403]
        assert "active" in agents


async def test_a_name_that_anybody_could_lead_here_is_not_answered(here: Ground) -> None:
    """A foreign host gets no page and no login: that is how a name would be rebound."""
    async with here.visitor(ANN) as visitor:
        port = httpx.URL(here.url).port
        statuses = {
            host: (await visitor.http.get("/healthz", headers={"Host": host})).status_code
            for host in ("evil.example", f"evil.example:{port}", f"localhost:{port}", "[::1]", "")
        }

        assert list(statuses.values()) == [421, 421, 200, 200, 421]


async def test_a_session_ends_with_its_token_and_with_a_logout(here: Ground) -> None:
    """At once, also a live view that is open; another session of the same person goes on."""
    token, text = here.token(ANN)
    async with here.visitor() as first, here.visitor(ANN) as second, here.visitor(ANN) as third:
        await first.login(text)
        async with first.http.stream("GET", "/live") as live:
            lines = live.aiter_lines()
            assert await anext(lines) == "event: figures"
            here.tokens.revoke(token.id)
            async with asyncio.timeout(5):
                rest = [line async for line in lines]
        out = await second.send("/controls", "/logout")

        assert rest[-3:-1] == ["event: over", "data:"]
        assert (await first.http.get("/")).headers["location"] == "/login"
        assert out.headers["location"] == "/login"
        assert (await second.http.get("/")).headers["location"] == "/login"
        assert (await third.http.get("/")).status_code == 200


async def test_an_action_is_a_record_of_the_person_who_took_it(here: Ground) -> None:
    """An agent is drained and resumed: by whom and why stands in the ledger, and on the pages."""
    async with here.visitor(ANN) as ann:
        preview = text_of(await ann.get(CONFIRM))
        verdict, words = await ann.act(
            CONFIRM,
            "/controls",
            command=CONTROL_PAUSE,
            target=GREETER,
            back="/agents",
            reason=HOSTILE,
        )
        agents, controls = await ann.get("/agents"), await ann.get("/controls")
        again = text_of(await ann.get(CONFIRM))
        made = await record(here, number(words))
        resumed = await ann.act(
            "/controls", "/controls", command=CONTROL_RESUME, target=GREETER, back="/controls"
        )

        assert "front-desk.greeter deliveries nothing 0 0" in preview
        assert (verdict, "By ann-governs." in words) == ("allow", True)
        assert "Nothing is delivered to front-desk.greeter now." in words
        assert (made.by, made.to) == (str(ANN), CONTROL_PAUSE)
        message = made.message()
        assert message
        assert (message.source, message.payload(Order)) == (
            "tidegate:console",
            Order(GREETER, HOSTILE),
        )
        assert "paused" in text_of(agents)
        assert "Resume" in text_of(agents)
        assert "<script>alert" not in controls
        assert HOSTILE in text_of(controls)
        assert "This would be refused: agent:front-desk.greeter is paused already" in again
        assert resumed[0] == "allow"
        assert "Nothing is stopped" in text_of(await ann.get("/controls"))


async def test_what_is_denied_or_held_says_what_to_do(here: Ground) -> None:
    """Policy does not let Bob; it lets Ann kill once Bob agrees. Both stand in the ledger."""
    async with here.visitor(BOB) as bob, here.visitor(ANN) as ann:
        denied = await bob.act(CONFIRM, "/controls", command=CONTROL_PAUSE, target=GREETER)
        held = await ann.act(CONFIRM, "/controls", command="control.kill", target="run:none")
        wrong = await ann.act(CONFIRM, "/controls", command="control.resume", target=GREETER)

        assert denied[0] == "deny"
        assert "A policy must let ops.bob do this" in denied[1]
        assert (await record(here, number(denied[1]))).by == str(BOB)
        assert held[0] == "hold"
        assert "It comes into force once it is approved. See who must agree" in held[1]
        assert (await record(here, number(held[1]))).by == str(ANN)
        assert (wrong[0], "is not stopped" in wrong[1]) == ("deny", True)
        assert 'id="asked">1<' in await ann.get("/agents")


async def test_what_came_of_an_action_is_told_once_and_on_a_page(here: Ground) -> None:
    """Not to a live view that is open besides, nor to a part that a page asks for."""
    async with here.visitor(BOB) as bob, bob.http.stream("GET", "/live") as live:
        lines = live.aiter_lines()
        answer = await bob.send(CONFIRM, "/controls", command=CONTROL_PAUSE, target=GREETER)
        for _ in range(2):
            while await anext(lines) != "event: figures":
                pass
        part = await bob.http.get("/agents", headers={"HX-Request": "true"})
        pages = [await bob.get(answer.headers["location"]) for _ in "12"]

    assert 'role="status"' not in part.text
    assert [page.count("A policy must let ops.bob do this") for page in pages] == [1, 0]


async def test_a_target_that_is_none_is_asked_for_again(here: Ground) -> None:
    """What was written is kept and escaped; nothing is done."""
    async with here.visitor(ANN) as ann:
        answer = await ann.http.get(
            "/controls/confirm", params={"command": CONTROL_PAUSE, "target": HOSTILE}
        )

        assert answer.status_code == 400
        assert "is no target; write bus, team:NAME" in text_of(answer.text)
        assert "<script>alert" not in answer.text


async def test_the_counters_are_exact_and_the_page_samples(here: Ground) -> None:
    """2,000 events: four samples a second at most reach the page, and each record is counted."""
    events, refused = 2_000, 100
    async with here.visitor(ANN) as ann, await here.running.bus(str(WEBSITE)) as website:
        async with await here.running.bus() as bus:
            last = await bus.ledger.last()
            assert last
            before = last.seq

        async def one(index: int) -> None:
            to = "nobody.hears" if index % 20 == 0 else "metric"
            with contextlib.suppress(Denied):
                await website.publish(Envelope.new(to, {"value": index}))

        async def all_of_them() -> None:
            await asyncio.gather(*(one(index) for index in range(events)))

        samples: list[float] = []
        clock = asyncio.get_running_loop().time
        publishing = asyncio.create_task(all_of_them())
        async with ann.http.stream("GET", "/live") as live:
            async for line in live.aiter_lines():
                samples += [clock()] if line == "event: figures" else []
                if publishing.done() and samples and clock() - samples[0] > 1.5:
                    break
        await publishing

        counted: dict[str, int] = {}
        async with await here.running.bus() as bus:

            async def quiet() -> bool:
                end = await bus.ledger.last()
                assert end
                nonlocal counted
                page = await ann.get("/")
                counted = totals(page)
                shown = f'id="records">{end.seq:,}<' in page
                return shown and end.seq == sum(counted.values())

            await until(quiet)
            found = [r async for r in bus.records(before + 1) if r.by == str(WEBSITE)]
            every = [r.verdict.value async for r in bus.records()]

        assert len(found) == events
        assert [r.verdict.value for r in found].count("deny") == refused
        assert counted == {verdict: every.count(verdict) for verdict in counted}
        assert len(samples) >= 3
        assert (len(samples) - 1) / (samples[-1] - samples[0]) <= 4.1


async def test_what_if_shows_what_another_bundle_would_have_said(here: Ground) -> None:
    """The project's folder is judged by, shown and activated with its report, by the person."""
    policy = here.project.policy / "main.cedar"
    text = policy.read_text()
    async with here.visitor(ANN) as ann, await here.running.bus(str(WEBSITE)) as website:
        await website.publish(Envelope.new("greeting.requested", {"name": "Ada"}))
        in_force = await ann.get("/policies")
        policy.write_text(text.replace('== Topic::"greeting.requested"', '== Topic::"greetings"'))
        try:
            changed = text_of(await ann.get("/policies"))
            answer = await ann.send("/policies", "/policies/what-if", since="1h")
            there = answer.headers["location"]

            async def done() -> bool:
                return "newly denied" in await ann.get(there)

            await until(done)
            report = text_of(await ann.get(there))
            confirm = text_of(await ann.get(f"{there}/confirm"))
            hasty = await ann.act(f"{there}/confirm", there, reason="no look before")
            digest, before = load_bundle(here.project.policy).digest, active_in(in_force)
            seen = {"before": before, "after": digest, "reason": "greetings are many"}
            verdict, words = await ann.act(f"{there}/confirm", there, **seen)
            made = await record(here, number(words))
            policy.write_text("permit (")
            broken = text_of(await ann.get("/policies"))
        finally:
            policy.write_text(text)

        assert "website-requests-greetings permit" in text_of(in_force)
        assert "the same" in text_of(in_force)
        assert "another bundle" in changed
        assert re.search(r"newly denied outside\.website event\.greeting\.requested", report)
        assert f"In force now {before} Afterwards {digest}" in confirm
        assert "New no rule Gone no rule Changed website-requests-greetings" in confirm
        assert re.search(r"newly denied [1-9]", confirm)
        assert (hasty[0], "not confirmed" in hasty[1]) == ("unknown", True)
        assert (verdict, made.by, made.to) == ("allow", str(ANN), POLICY_ACTIVATE)
        message = made.message()
        assert message
        assert message.payload()["bundle"] == digest
        assert message.payload()["report"]["newly_denied"] > 0
        assert "does not load" in broken


def active_in(page: str) -> str:
    """Digest of the policies in force, of the page of policies."""
    found = re.search(r"/policies/bundles/(sha256:\w+)", page)
    assert found
    return found[1]


async def test_headers_without_end_are_cut_off(here: Ground) -> None:
    """Nobody needs to be logged in to send them: what is kept of them must be bounded."""
    host, port = here.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /login HTTP/1.1\r\nHost: localhost\r\nx: " + b"x" * 100_000)

    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    writer.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ledger/0/proof", 404),
        (f"/ledger/{10**19}", 404),
        (f"/ledger/{'9' * 5000}", 404),
        (f"/approvals/{10**19}", 404),
        (f"/runs?skip={'9' * 5000}", 200),
    ],
)
async def test_a_number_that_is_none_of_the_ledger_is_no_fault(
    here: Ground, path: str, status: int
) -> None:
    """Whoever changes an address by hand is told so, and nothing fails."""
    async with here.visitor(ANN) as ann:
        assert (await ann.http.get(path)).status_code == status


async def test_damaged_tokens_let_nobody_in(here: Ground) -> None:
    """Nor do they show anything more to who is in; mended, everything is as before."""
    path = here.project.state.tokens
    async with here.visitor(ANN) as ann:
        good = path.read_bytes()
        path.write_bytes(b"{")
        try:
            damaged = await ann.http.get("/agents")
        finally:
            path.write_bytes(good)

        assert damaged.status_code == 503
        assert "Nobody can be let in" in text_of(damaged.text)
        assert "default-src 'self'" in damaged.headers["content-security-policy"]
        assert "front-desk.greeter" in await ann.get("/agents")


async def test_live_views_of_a_browser_are_few(here: Ground) -> None:
    """A fifth ends the first, which says so: a browser has no more than six connections."""
    async with here.visitor(ANN) as ann:
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in ann.http.cookies.items())}
        async with httpx.AsyncClient(base_url=here.url, headers=headers) as http:
            first = http.build_request("GET", "/live")
            live = await http.send(first, stream=True)
            others = [
                await http.send(http.build_request("GET", "/live"), stream=True) for _ in "1234"
            ]
            async with asyncio.timeout(5):
                ended = (await live.aread()).decode()
            for other in others:
                await other.aclose()

        assert ended.endswith("event: over\ndata:\n\n")


async def test_it_ends_at_once_also_with_live_views_open(here: Ground) -> None:
    """SIGTERM: the view is told that it is over, and the process is gone soon after."""
    (info,) = (info for info in running(here.project.state) if info.name == "console")
    async with here.visitor(ANN) as ann, ann.http.stream("GET", "/live") as live:
        lines = live.aiter_lines()
        assert await anext(lines) == "event: figures"
        began = asyncio.get_running_loop().time()
        os.kill(info.pid, signal.SIGTERM)
        rest = [line async for line in lines]
        await until(lambda: not alive(info.pid))

        assert rest[-3:-1] == ["event: over", "data:"]
        assert asyncio.get_running_loop().time() - began < 3
