"""The console in a browser: what people see and do there, and what is done to them."""

from __future__ import annotations

import textwrap
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from support import until
from system.console.browser import Visitor, axe, browsing, visit
from tidegate.bus import Bus
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate.tokens import Tokens
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Refused
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import OPERATOR

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.long,
    pytest.mark.timeout(400),
]

CLIENT = "outside.client"
EVIL = """'"><img src=x onerror="window.__ran=1"><script>window.__ran=1</script>{{7*7}}"""
POLICY = """
@id("rest") permit (principal, action, resource) unless { context.to like "pay.*" };

@id("a-payment-needs-an-operator")
@require_approval("1 of role operator within 1h")
permit (principal, action in Action::"task", resource == Capability::"pay.out");

@id("ann-agrees-to-gifts")
@require_approval("1 of ops.ann within 1h")
permit (principal, action in Action::"task", resource == Capability::"pay.gift");

@id("nobody-asks-for-everything")
forbid (principal, action, resource == Topic::"everything");
"""
CODE = """
from tidegate import Agent
from tidegate_schemas.errors import Permanent

agent = Agent()

@agent.task("order.check")
def check(data: dict) -> dict:
    return {"fine": True, "parts": data["parts"], "customer": data.get("customer", "Ann Example")}

@agent.task("stock.reserve")
def reserve(data: dict) -> dict:
    if data["part"] == "unobtainium":
        raise Permanent("there is no unobtainium")
    return {"shelf": f"shelf {len(data['part'])}", "part": data["part"]}

@agent.task("pay.out")
@agent.task("pay.gift")
def pay(data: dict) -> dict:
    return {"paid": data["amount"]}

@agent.task("mail.send")
def mail(data: dict) -> dict:
    return {"sent": True}
"""
ORDER = """
    blueprint: order
    version: 3
    description: an order is checked, reserved, paid and told
    on: { event: order.placed }
    steps:
      check: { task: order.check, with: { parts: "${ input.parts }", note: "${ input.note }" } }
      reserve:
        task: stock.reserve
        needs: [check]
        foreach: steps.check.output.parts
        with: { part: "${ item }" }
      gift: { task: mail.send, needs: [check], when: "false", with: {} }
      pay: { task: pay.out, needs: [reserve, gift], with: { amount: "${ input.amount }" } }
      tell: { task: mail.send, needs: [pay], with: { to: "${ steps.check.output.customer }" } }
    """
CAPABILITIES = ("order.check", "stock.reserve", "pay.out", "pay.gift", "mail.send")


def write_project(root: Path) -> Path:
    """One with an agent, a blueprint, and rules that hold what is paid."""
    files = {
        "tidegate.yaml": f"project: orders\npublishers: [{CLIENT}, ops.ann]\n",
        "policy/main.cedar": POLICY,
        "handlers.py": CODE,
        "blueprints/order.yaml": ORDER,
        "agents/worker.yaml": f"""\
            team: shop
            name: worker
            version: "1.4.2"
            owner: shop@tidegate.invalid
            run: handlers:agent
            capabilities: [{", ".join(CAPABILITIES)}]
            concurrency: 8
            """,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
    return root


@dataclass
class Shop:
    """A running stack with a console, and a browser.

    Attributes:
        stack: it.
        url: of its console.
        token: with which the operator logs in.
        bus: of the operator.
        client: of a publisher.
        browser: a browser.
        screens: folder of the pictures.
    """

    stack: Stack
    url: str
    token: str
    bus: Bus
    client: Bus
    browser: Browser
    screens: Path

    async def operator(self, *, dark: bool = False) -> Visitor:
        """Somebody at the browser, logged in as the operator."""
        visitor = await visit(self.browser, self.url, dark=dark)
        await visitor.log_in(self.token)
        return visitor

    async def order(self, *parts: str, amount: int = 120, note: str = "", **more: Any) -> str:
        """Place an order; its correlation."""
        data = {"parts": parts, "amount": amount, "note": note}
        envelope = Envelope.new("order.placed", data, **more)
        await self.client.publish(envelope)
        return envelope.correlationid or envelope.id

    async def held(self, correlation: str) -> int:
        """The record that holds the payment of an order."""
        return (await self.seqs(correlation, Verdict.HOLD, "pay.out"))[0]

    async def seqs(self, correlation: str, verdict: Verdict, to: str) -> list[int]:
        """Records of a correlation, once there are some."""
        found: list[int] = []

        async def there() -> bool:
            async for record in self.bus.records():
                message = record.message()
                if (
                    (record.verdict, record.to) == (verdict, to)
                    and message
                    and correlation in (message.correlationid, message.id)
                ):
                    found.append(record.seq)
            return bool(found)

        await until(there, seconds=30)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shop]:
    """One stack and one browser for all tests of this file."""
    folder = tmp_path_factory.mktemp("shop")
    screens = tmp_path_factory.mktemp("screens")
    project = load_project(write_project(folder / "project"), folder / "state")
    async with Stack(project, faces=("console",)) as stack, browsing() as browser:
        await until(project.state.console_url.exists)
        url = project.state.console_url.read_text("utf-8").strip()
        _, token = Tokens(project.state.tokens).add(OPERATOR, now=time.time_ns(), note="a test")
        where = project.root, project.state.folder
        async with (
            await Bus.of_project(str(OPERATOR), *where) as bus,
            await Bus.of_project(CLIENT, *where) as client,
        ):
            yield Shop(stack, url, token, bus, client, browser, screens)
            print(f"\npictures of the pages: {screens}")


@pytest.fixture(scope="session")
def axe_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    return axe(tmp_path_factory.mktemp("npm") / "axe")


async def test_a_held_message_is_found_and_released_in_under_five_clicks(shop: Shop) -> None:
    """From the start page: approvals, the message, approve. The run that asked for it goes on."""
    correlation = await shop.order("bolt", "nut", "washer", amount=4_200, correlationid="order-77")
    held = await shop.held(correlation)
    person = await shop.operator()
    await person.go("/")
    page = person.page

    await person.click(page.get_by_role("link", name="Approvals"))
    await person.click(page.locator("article", has_text="order").first.get_by_role("link"))
    await page.get_by_label("Why; it stands in the ledger").fill("it is in order")
    await person.shoot(shop.screens, "approval")
    await person.click(page.get_by_role("button", name="Approve"))

    assert person.clicks < 5
    await page.get_by_text("It waits no more").wait_for()
    (record,) = await shop.seqs(correlation, Verdict.ALLOW, "pay.out")
    assert page.url == f"{shop.url}/approvals/{held}"
    assert await page.get_by_role("link", name=str(record)).count()
    granted = [r async for r in shop.bus.records() if r.to == "approval.grant"][-1]
    message = granted.message()
    assert message and message.payload()["reason"] == "it is in order"
    assert (granted.by, granted.verdict) == (str(OPERATOR), Verdict.ALLOW)
    await shop.seqs(correlation, Verdict.ALLOW, "run.finished")
    assert person.trouble == []
    await person.context.close()


async def test_who_may_not_agree_sees_why(shop: Shop) -> None:
    """What waits appears by itself; the page of a message that asks somebody else says why."""
    person = await shop.operator()
    await person.go("/approvals")
    envelope = Envelope.new("pay.gift", {"amount": 5}, kind="task", to="pay.gift")
    receipt: Receipt = await shop.bus.publish(envelope)
    assert receipt.verdict is Verdict.HOLD
    await person.click(person.page.get_by_role("link", name="task pay.gift"))
    assert person.page.url.endswith(f"/approvals/{receipt.seq}")

    text = await person.page.locator("#objection").inner_text()
    assert "has asked for it, and cannot agree to it too" in text
    assert await person.page.get_by_role("button", name="Approve").count() == 0
    await person.shoot(shop.screens, "approval-not-yours")
    await person.context.close()


async def test_a_run_is_cancelled_after_a_confirmation(shop: Shop) -> None:
    """The picture shows where it waits; to cancel it takes a second page, and a reason."""
    correlation = await shop.order("bolt", amount=9, correlationid="order-cancelled")
    await shop.held(correlation)
    person = await shop.operator()
    page = person.page
    await person.go("/runs")
    await person.shoot(shop.screens, "runs")
    row = page.get_by_role("row").filter(has_text="waits at the gateway").first
    await person.click(row.get_by_role("link"))
    assert await page.locator("a.step.hold").count() == 1
    assert await page.locator("a.step.succeeded").count() == 2
    await person.shoot(shop.screens, "run-waits")
    await person.click(page.get_by_role("link", name="Cancel …"))
    await person.shoot(shop.screens, "run-cancel")
    await page.get_by_label("Why; it stands in the ledger").fill("the customer does not want it")
    await person.click(page.get_by_role("button", name="Cancel the run"))

    assert await page.locator("#poll-run .facts .mark").inner_text() == "cancelled"
    assert "the customer does not want it" in await page.locator("#poll-run").inner_text()
    await page.reload()
    assert await page.get_by_role("link", name="Cancel …").count() == 0
    assert person.trouble == []
    await person.context.close()


def evil(**changed: Any) -> Envelope:
    """An envelope with something evil in every field that takes it."""
    names = (
        *("id", "source", "subject", "datacontenttype", "dataschema", "correlationid", "runid"),
        *("causationid", "stepid", "blueprint", "traceparent", "tracestate"),
    )
    fields: dict[str, Any] = dict.fromkeys(names, EVIL)
    fields |= {"time": "2026-01-31T12:00:00Z", "attempt": 1, "kind": "event", "to": "thing.done"}
    data = {EVIL: [EVIL, {"deep": EVIL}], "bidi": "\u202eevil\u0007"}
    return Envelope.new(EVIL, data, **(fields | changed))


async def test_nothing_that_a_message_says_is_run(shop: Shop) -> None:
    """A script in every field of an envelope stands in the pages as text; none is even tried."""
    plain = await shop.client.publish(evil())
    await shop.client.publish(evil(id="other", source=f"second {EVIL}", correlationid="other"))
    asked = await shop.client.publish(
        evil(id=f"task {EVIL}", kind="task", to="pay.out", onbehalfof=None)
    )
    with pytest.raises(Refused):
        await shop.client.publish(evil(id=f"denied {EVIL}", to="everything"))
    correlation = await shop.order(EVIL, "unobtainium", note=EVIL, correlationid=f"run {EVIL}")
    await shop.seqs(correlation, Verdict.ALLOW, "run.finished")
    person = await shop.operator()
    page = person.page

    await person.go("/runs")
    run = page.get_by_role("row").filter(has_text="unobtainium").first.get_by_role("link")
    there = str(await run.get_attribute("href"))
    paths = [f"/ledger/{plain.seq}", f"/ledger/{asked.seq}", f"/approvals/{asked.seq}", there]
    for path in [*paths, "/approvals", "/runs", "/ledger", "/"]:
        await person.go(path)
        assert await page.evaluate("window.__ran") is None, path
        assert await person.violations() == [], path
        assert await person.overflow() == 0, path
        if path in paths:
            assert EVIL[:60] in await page.locator("main").inner_text(), path
    for field, value in (("correlation", EVIL), ("id", EVIL), ("by", EVIL), ("since", EVIL)):
        await person.go("/ledger")
        await page.locator(f"#{field}").fill(value)
        await person.click(page.get_by_role("button", name="Find"))
        assert await page.locator(f"#{field}").input_value() == value
        assert await page.evaluate("window.__ran") is None, field
        assert await person.violations() == [], field
    await person.go(f"/ledger/{plain.seq}")
    assert "\\x202eevil" in await page.locator("main").inner_text()
    await person.click(page.get_by_role("link", name="Story"))
    assert EVIL[:60] in await page.locator("main").inner_text()
    assert await page.evaluate("window.__ran") is None
    assert person.trouble == [
        text for text in person.trouble if "400 (Bad Request)" in text
    ]  # of the time that is none
    await person.context.close()


async def test_the_explorer_finds_records_and_shows_one_whole(shop: Shop) -> None:
    """Filters are in the address; a record has its rule with file and line, and its proof."""
    with pytest.raises(Refused) as refused:
        await shop.client.publish(Envelope.new("everything", {"all": True}))
    person = await shop.operator()
    page = person.page
    await person.go("/ledger")
    await person.shoot(shop.screens, "ledger")
    await page.get_by_label("Verdict").select_option("deny")
    await page.get_by_label("From").fill(CLIENT)
    await person.click(page.get_by_role("button", name="Find"))
    assert f"by={CLIENT}" in page.url and "verdict=deny" in page.url
    link = page.get_by_role("link", name=str(refused.value.seq), exact=True)
    await person.click(link)

    text = await page.locator("main").inner_text()
    assert "nobody-asks-for-everything" in text
    assert "main.cedar:" in text
    assert 'forbid (principal, action, resource == Topic::"everything")' in text

    async def proven() -> bool:
        await page.reload()
        return await page.get_by_text("proven", exact=True).count() == 1

    await until(proven, seconds=30)
    await person.shoot(shop.screens, "record")
    assert person.trouble == []
    await person.context.close()


async def test_pages_have_no_barriers(shop: Shop, axe_source: str) -> None:
    """axe-core finds nothing serious or critical on any page, light and dark, in both widths."""
    correlation = await shop.order("bolt", "unobtainium", amount=1, correlationid="order-88")
    await shop.seqs(correlation, Verdict.ALLOW, "run.finished")
    waits = await shop.order("bolt", amount=2, correlationid="order-89")
    held = await shop.held(waits)
    for dark in (False, True):
        person = await shop.operator(dark=dark)
        page, word = person.page, "dark" if dark else "light"
        await person.go("/runs")
        rows = page.get_by_role("row").filter(has_text="failed").first
        run = str(await rows.get_by_role("link").get_attribute("href"))
        paths = {
            "flow": "/",
            "ledger-page": "/ledger?verdict=hold",
            "record-hold": f"/ledger/{held}",
            "story": f"/ledger/story?of={correlation}",
            "runs-page": "/runs",
            "agents": "/agents",
            "policies": "/policies",
            "controls": "/controls",
            "run": run,
            "run-cancel-page": f"{run}/cancel",
            "approvals": "/approvals",
            "approval-page": f"/approvals/{held}",
            "nothing": "/no/such/page",
        }
        for name, path in paths.items():
            await person.go(path)
            assert await person.barriers(axe_source) == [], (word, path)
            await person.shoot(shop.screens, f"{name}-{word}", *(("wide",) if dark else ()))
            assert await person.overflow() == 0, (word, path)
        await person.context.close()


async def test_on_a_phone_what_belongs_together_stands_together(shop: Shop) -> None:
    """A record's number is above its verdict, at the right; a tab of runs is one line."""
    await shop.order("bolt", amount=1, correlationid="order-90")
    person = await shop.operator()
    page = person.page
    await page.set_viewport_size({"width": 390, "height": 844})
    await person.go("/")
    row = page.locator("#newest tbody tr").first
    right = [await row.locator(f"td:nth-child({n}) > *").bounding_box() for n in (1, 3)]
    assert right[0] and right[1]
    assert abs(right[0]["x"] + right[0]["width"] - right[1]["x"] - right[1]["width"]) <= 1
    await person.go("/runs")
    heights = [await tab.bounding_box() for tab in await page.locator(".tabs a").all()]
    assert {box and box["height"] < 40 for box in heights} == {True}
    assert await person.overflow() == 0
    await person.context.close()


async def test_pages_are_of_the_person_who_is_logged_in(shop: Shop) -> None:
    """Without a session every page leads to the login, and comes back to where one wanted to go."""
    person = await visit(shop.browser, shop.url)
    await person.go("/ledger?kind=control")
    assert "/login" in person.page.url
    await person.shoot(shop.screens, "login")
    await person.page.get_by_label("Token").fill(shop.token)
    await person.click(person.page.get_by_role("button", name="Log in"))
    await person.page.get_by_role("heading", name="Ledger").wait_for()
    assert "kind=control" in person.page.url
    rows: list[str] = await person.page.locator("td[data-name=to] .kind").all_inner_texts()
    assert rows and set(rows) == {Kind.CONTROL.value}
    await person.context.close()
