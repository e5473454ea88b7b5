"""The edge of a stack that runs: what is sent over HTTP, and what stands in the ledger."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_binary_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent

from support import until
from tidegate.approvals import opinion, the_one
from tidegate.cli.checking import read_trust
from tidegate.governance import state_of
from tidegate.processes import running
from tidegate_bus import binding
from tidegate_evidence.proof import Proof
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.subjects import Verdict

from .ground import BATCH, STRUCTURED, Ground, example, ground

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> AsyncGenerator[Ground]:
    """One stack for all of the file."""
    async with ground(tmp_path_factory.mktemp("edge"), pytestconfig) as made:
        yield made


# Events


async def test_an_event_arrives_unchanged_in_every_mode(here: Ground) -> None:
    """Binary, structured and batched: the ledger holds what was sent, JSON byte for byte."""
    events = [
        example(f"mode-{n}", subject="größe 100%", time="2026-01-02T03:04:05Z") for n in "123"
    ]
    message = binding.write(events[0])
    answers = [
        await here.web.post("/v1/events", content=message.body, headers=dict(message.headers)),
        await here.send(events[1]),
        await here.web.post(
            "/v1/events",
            content=b"[" + encode(events[2]) + b"]",
            headers={"content-type": BATCH},
        ),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].json()["verdict"] == "allow"
    assert answers[0].json()["policies"] == ["outside-says-what-happened"]
    assert answers[2].json()[0]["id"] == "mode-3"
    assert await here.messages("mode-1", "mode-2", "mode-3") == {e.id: e for e in events}
    (record,) = await here.records("mode-1")
    assert record.by == "outside.web"


async def test_data_of_other_types_arrives_as_the_bytes_that_were_sent(here: Ground) -> None:
    """Whatever they are."""
    data = bytes(range(256))
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "bytes",
        "ce-source": "/shop",
        "ce-type": "shop.photo",
        "content-type": "image/x-any",
    }
    answer = await here.web.post("/v1/events", content=data, headers=headers)

    assert answer.status_code == 200
    envelope = (await here.messages("bytes"))["bytes"]
    assert (envelope.datacontenttype, envelope.payload(bytes)) == ("image/x-any", data)


async def test_events_of_the_cloudevents_sdk_arrive_unchanged(here: Ground) -> None:
    """A peer's client, in both of its modes."""
    for id, to_message in (("sdk-1", to_binary_event), ("sdk-2", to_structured_event)):
        attributes = {
            "id": id,
            "source": "https://shop.example/größe",
            "type": "shop.sold",
            "specversion": "1.0",
            "subject": 'a "quoted" 100% €',
            "datacontenttype": "application/json",
            "correlationid": "c-1",
        }
        event = CloudEvent(dict(attributes), {"total": 1, "text": "größe"})
        message = to_message(event)
        answer = await here.web.post(
            "/v1/events", content=message.body, headers=dict(message.headers)
        )
        assert answer.status_code == 200, answer.text

        found = (await here.messages(id))[id]
        assert {name: getattr(found, name) for name in attributes} == attributes
        assert found.payload() == {"total": 1, "text": "größe"}


async def test_curl_sends_an_event(here: Ground) -> None:
    """As the README shows it."""
    token = here.bearer()["Authorization"]
    command = ["curl", "--silent", "--show-error", "--fail-with-body", f"{here.url}/v1/events"]
    for header in (
        f"Authorization: {token}",
        "ce-specversion: 1.0",
        "ce-id: curl",
        "ce-source: /shop",
        "ce-type: shop.sold",
        "Content-Type: application/json",
    ):
        command += ["-H", header]
    process = await asyncio.create_subprocess_exec(
        *command, "-d", '{"total": 3.10}', stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()

    assert (process.returncode, json.loads(said)["verdict"]) == (0, "allow")
    assert (await here.messages("curl"))["curl"].body == b'{"total": 3.10}'


async def test_source_and_id_are_the_idempotency_key(here: Ground) -> None:
    """Sent twice it is recorded once, and a duplicate says so; another source is another event."""
    first, again = [(await here.send(example("twice"))).json() for _ in range(2)]
    other = (await here.send(example("twice", source="/other"))).json()

    assert [first["verdict"], again["verdict"], other["verdict"]] == ["allow", "duplicate", "allow"]
    assert (again["seq"], again["was"]) == (first["seq"], "allow")
    verdicts = [record.verdict for record in await here.records("twice")]
    assert verdicts == [Verdict.ALLOW, Verdict.DUPLICATE, Verdict.ALLOW]


async def test_a_refusal_names_the_policy_and_the_record(here: Ground) -> None:
    """403, a problem document, and the ledger has it; repeated, it is refused again."""
    event = Envelope.new("secrets.read", {"x": 1}, id="denied", source="/shop")
    answers = [await here.send(event) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [403, 403]
    problem = answers[0].json()
    assert answers[0].headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:tidegate:problem:denied"
    assert (problem["reason"], problem["policies"]) == ("not_permitted", [])
    (record, _) = await here.records("denied")
    assert (record.verdict, record.seq) == (Verdict.DENY, problem["seq"])


async def test_what_is_accepted_says_where_to_ask(here: Ground) -> None:
    """202 once it is safe; the verdict comes, and the id may be any text."""
    id = "a/b c?d#e%&ü"
    for query, headers in (("?wait=accepted", {}), ("", {"prefer": "respond-async"})):
        answer = await here.web.post(
            f"/v1/events{query}",
            content=encode(example(id)),
            headers={"content-type": STRUCTURED, **headers},
        )
        assert (answer.status_code, answer.json()["status"]) == (202, 202)
    where = answer.headers["location"]
    early = (await here.web.get(where)).json()
    assert early["status"] in ("accepted", "decided")

    found = await _decided(here.web, where)
    assert (found["id"], found["source"], found["verdict"]) == (id, "/shop", "allow")
    assert found["seq"] == (await here.records(id))[0].seq


async def test_a_record_is_proven_once_a_checkpoint_covers_it(here: Ground) -> None:
    """The proof that comes with a message checks offline against the key of the log."""
    answer = await here.send(example("proven"))
    where = answer.headers["location"]

    async def proven() -> bool:
        return "proven" in (await here.web.get(where)).json()

    await until(proven)
    found = (await here.web.get(where)).json()["proven"]
    trust = read_trust(None, None, here.state.trust)
    checkpoint = Proof.parse(found["proof"].encode()).check(found["record"].encode(), trust)
    assert checkpoint.size == found["size"]
    assert json.loads(found["record"])["seq"] == answer.json()["seq"]


async def test_what_is_held_goes_on_when_somebody_agrees(here: Ground) -> None:
    """The agreement comes over HTTP too, as the operator's own message."""
    event = Envelope.new("refund", {"total": 1}, id="held", source="/shop")
    held = await here.send(event)
    assert (held.status_code, held.json()["verdict"]) == (200, "hold")
    async with await here.running.bus() as bus:
        state = await state_of(bus.ledger)
    hold = the_one(state, held.json()["seq"])
    data = msgspec.to_builtins(opinion(state, hold, "fine"))
    grant = Envelope.new("approval.grant", data, kind="control", to="approval.grant", id="agreed")
    operator = here.client("tidegate.operator")
    agreed = await operator.post(
        "/v1/events", content=encode(grant), headers={"content-type": STRUCTURED}
    )

    assert agreed.json()["verdict"] == "allow", agreed.text

    async def released() -> bool:
        return bool((await here.web.get("/v1/messages/held")).json()["verdict"] == "allow")

    await until(released)
    found = (await here.web.get("/v1/messages/held")).json()
    assert (found["first"], found["reason"]) == (held.json()["seq"], "approved")


async def test_a_batch_tells_what_became_of_each_event_in_order(here: Ground) -> None:
    """207 where not all went well: each has a status of its own."""
    events = [
        encode(example("batch-0")),
        encode(Envelope.new("nothing.permitted", id="batch-1")),
        encode(example("batch-2")),
    ]
    body = b"[" + b",".join(events) + b"]"
    answer = await here.web.post("/v1/events", content=body, headers={"content-type": BATCH})

    assert answer.status_code == 207
    said = [(one["id"], one["status"]) for one in answer.json()]
    assert said == [("batch-0", 200), ("batch-1", 403), ("batch-2", 200)]
    empty = await here.web.post("/v1/events", content=b"[]", headers={"content-type": BATCH})
    assert (empty.status_code, empty.json()) == (200, [])


async def test_a_batch_that_is_more_than_the_rate_is_not_taken(here: Ground) -> None:
    """429 with when to come again; 413 for one that never fits."""
    bearer = {"Authorization": f"Bearer {here.token('outside.web', rate='4/1h')}"}

    async def send(*ids: str) -> httpx.Response:
        body = b"[" + b",".join(encode(example(id)) for id in ids) + b"]"
        headers = bearer | {"content-type": BATCH}
        return await here.web.post("/v1/events", content=body, headers=headers)

    never = await send(*(f"never-{n}" for n in range(5)))
    good = await send("rated-1", "rated-2")
    late = await send("rated-3", "rated-4")

    assert (never.status_code, never.json()["pointer"]) == (413, "")
    assert (good.status_code, late.status_code) == (200, 429)
    assert int(late.headers["retry-after"]) in range(900, 1802)
    assert not await here.records("never-0")
    assert not await here.records("rated-3")


async def test_an_extension_that_is_not_known_is_named_with_those_that_are(here: Ground) -> None:
    """In every mode: the bus keeps what it understands, and says so of the rest."""
    event = encode(example("odd")).removesuffix(b"}") + b',"comexampleodd":"1"}'
    binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "a", "ce-source": "b"}
    answers = [
        await here.web.post("/v1/events", content=content, headers=headers)
        for content, headers in (
            (event, {"content-type": STRUCTURED}),
            (b"[" + event + b"]", {"content-type": BATCH}),
            (b"1", binary | {"ce-comexampleodd": "1"}),
        )
    ]

    assert [answer.status_code for answer in answers] == [400] * 3
    for answer in answers:
        detail = answer.json()["detail"]
        assert "comexampleodd`; it knows the extensions kind, to, correlationid, " in detail
    assert answers[0].json()["pointer"] == "/comexampleodd"


async def test_of_a_batch_with_a_fault_nothing_is_published(here: Ground) -> None:
    """The pointer names the event and the attribute."""
    body = b"[" + encode(example("half")) + b',{"specversion":"1.0","id":"x","source":"s"}]'
    answer = await here.web.post("/v1/events", content=body, headers={"content-type": BATCH})

    assert (answer.status_code, answer.json()["pointer"]) == (400, "/1/type")
    assert await here.records("half") == []


@pytest.mark.parametrize(
    ("request_", "status", "place"),
    [
        ({"content": b'{"specversion":"1.0"}'}, 400, {"pointer": "/id"}),
        ({"content": b"{", "type": STRUCTURED}, 400, {"pointer": ""}),
        ({"content": b"{}", "type": "application/json"}, 415, {"header": "Content-Type"}),
        ({"content": b"1", "type": "text/plain", "ce-id": "1"}, 400, {"header": "ce-specversion"}),
        ({"content": b"{}", "query": "?wait=long"}, 400, {"parameter": "wait"}),
        ({"content": b"{}", "query": "?what=1"}, 400, {"parameter": "what"}),
        ({"content": b"{}", "content-encoding": "gzip"}, 415, {"header": "Content-Encoding"}),
        ({"content": b"x" * 400_001}, 413, {}),
        ({"content": encode(example("big", data="x" * 100_000))}, 413, {"pointer": ""}),
    ],
)
async def test_a_fault_is_pointed_at(
    here: Ground, request_: dict[str, Any], status: int, place: dict[str, str]
) -> None:
    """Each is a problem document that names the field, header or parameter (RFC 9457)."""
    headers = {"content-type": request_.pop("type", STRUCTURED)}
    body, query = request_.pop("content"), request_.pop("query", "")
    answer = await here.web.post(
        f"/v1/events{query}", content=body, headers={**headers, **request_}
    )

    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = {n: problem[n] for n in ("pointer", "header", "parameter") if n in problem}
    assert found == place


async def test_who_says_not_who_it_is_does_not_come_in(here: Ground) -> None:
    """401 with a challenge; 404 and 405 tell nothing but what there is."""
    async with httpx.AsyncClient(base_url=here.url) as nobody:
        for path in ("/v1/messages/x", "/v1/stream"):
            answer = await nobody.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="tidegate"'
        bad = await nobody.post("/v1/events", headers={"authorization": "Bearer tg_x"})
        assert (bad.status_code, bad.json()["status"]) == (401, 401)
        assert (await nobody.get("/v1/nothing")).status_code == 404
        method = await nobody.delete("/v1/events")
        assert (method.status_code, method.headers["allow"]) == (405, "POST")
        health = await nobody.get("/healthz")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})


async def test_a_token_may_be_used_as_often_as_it_says(here: Ground) -> None:
    """429, and when to come again."""
    token = here.token("outside.other", rate="2/1h")
    async with httpx.AsyncClient(base_url=here.url) as client:
        headers = {"authorization": f"Bearer {token}"}
        answers = [await client.get("/v1/messages/x", headers=headers) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 3600


async def test_a_full_backlog_is_said_at_once_and_what_was_taken_is_kept(here: Ground) -> None:
    """429 with Retry-After while the gateway stands still; nothing of the 202s is lost."""
    flood = here.client("outside.flood")
    (gateway,) = [info.pid for info in running(here.state) if info.name == "gateway"]
    events = [encode(example(f"flood-{n}")) for n in range(80)]
    os.kill(gateway, signal.SIGSTOP)
    try:
        answer = await flood.post(
            "/v1/events?wait=accepted",
            content=b"[" + b",".join(events) + b"]",
            headers={"content-type": BATCH},
        )
        single = await flood.post(
            "/v1/events?wait=accepted", content=events[-1], headers={"content-type": STRUCTURED}
        )
    finally:
        os.kill(gateway, signal.SIGCONT)

    assert (answer.status_code, single.status_code) == (207, 429)
    assert int(answer.headers["retry-after"]) >= 1
    assert int(single.headers["retry-after"]) >= 1
    taken = [one["id"] for one in answer.json() if one["status"] == 202]
    refused = [one for one in answer.json() if one["status"] == 429]
    assert (len(taken), len(refused)) == (60, 20)
    for id in taken[::20]:
        assert (await _decided(flood, f"/v1/messages/{id}"))["verdict"] == "allow"


# Tasks


async def test_what_answers_an_event_is_not_the_answer_to_a_task_of_its_id(here: Ground) -> None:
    """Though it is to the same sender, and was there before."""
    await here.send(Envelope.new("shop.broken", "door", id="twin", source="/shop"))

    async def given_up() -> bool:
        async with await here.running.bus() as bus:
            found = [record.message() async for record in bus.records()]
        return any(m and m.kind == "result" and m.causationsource == "/shop" for m in found)

    await until(given_up)
    headers = {"prefer": "wait=20", "idempotency-key": "twin"}
    answer = await here.web.post("/v1/tasks/text.shout", json="a", headers=headers)
    assert (answer.status_code, answer.json()) == (200, "A")
    results: list[Any] = []

    async def answered() -> bool:
        status = (await here.web.get(answer.headers["location"])).json()
        results.append(status.get("result"))
        return bool(results[-1])

    await until(answered)
    assert results[-1]["event"]["data"] == "A"


async def test_a_task_is_answered_with_its_result(here: Ground) -> None:
    """As an event in binary mode, which a peer's client reads; asked again, it is the same one."""
    headers = {"prefer": "wait=20", "idempotency-key": '"shout-1"'}
    answers = [
        await here.web.post("/v1/tasks/text.shout", json="hello", headers=headers) for _ in range(2)
    ]

    for answer in answers:
        assert (answer.status_code, answer.json()) == (200, "HELLO")
        assert answer.headers["preference-applied"] == "wait=20"
        event = from_binary_event(HTTPMessage(dict(answer.headers), answer.content))
        assert event.get_type() == "tidegate.result"
        assert event.get_extension("causationid") == "shout-1"
    allowed = [r for r in await here.records("shout-1") if r.verdict is Verdict.ALLOW]
    assert len(allowed) == 1


async def test_a_task_may_be_an_event_and_its_result_fetched_later(here: Ground) -> None:
    """Without a preference: 202, and where the result will be."""
    task = Envelope.new("text.shout", "later", id="shout-2", kind="task", to="text.shout")
    answer = await here.web.post(
        "/v1/tasks/text.shout", content=encode(task), headers={"content-type": STRUCTURED}
    )
    assert (answer.status_code, answer.json()["verdict"]) == (202, "allow")

    async def answered() -> bool:
        return bool((await here.web.get(answer.headers["location"])).json()["status"] == "answered")

    await until(answered)
    found = (await here.web.get(answer.headers["location"])).json()
    assert found["result"]["event"]["data"] == "LATER"


async def test_a_task_that_nobody_can_do_is_a_problem(here: Ground) -> None:
    """The agent's dead letter says why; a task that policy forbids is refused."""
    answer = await here.web.post("/v1/tasks/text.refuse", json="x", headers={"prefer": "wait=20"})
    other = await here.client("outside.other").post("/v1/tasks/text.shout", json="x")

    assert (answer.status_code, answer.json()["by"]) == (502, "work.shouter")
    assert "it is not a text that I like" in answer.json()["detail"]
    assert (other.status_code, other.json()["type"]) == (403, "urn:tidegate:problem:denied")


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "place"),
    [
        ("text shout", {}, b"1", 400, {"parameter": "capability"}),
        ("text.shout", {"idempotency-key": ""}, b"1", 400, {"header": "Idempotency-Key"}),
        ("text.shout", {"ce-to": "text.refuse"}, b"1", 400, {"header": "ce-to"}),
        ("text.shout", {"content-type": BATCH}, b"[]", 415, {"header": "Content-Type"}),
        (
            "text.shout",
            {"content-type": STRUCTURED},
            encode(Envelope.new("t", kind="event", to="text.shout")),
            400,
            {"pointer": "/kind"},
        ),
        ("text.shout", {}, b"{", 400, {"pointer": ""}),
    ],
)
async def test_a_fault_of_a_task_is_pointed_at(
    here: Ground,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    place: dict[str, str],
) -> None:
    """The path, the key and the event must say the same."""
    headers = {"content-type": "application/json", **headers}
    answer = await here.web.post(f"/v1/tasks/{path}", content=body, headers=headers)

    problem = answer.json()
    found = {n: problem[n] for n in ("pointer", "header", "parameter") if n in problem}
    assert (answer.status_code, found) == (status, place), answer.text


# What is told


async def test_everybody_sees_what_is_theirs(here: Ground) -> None:
    """Others' messages are not there, whoever asks by name; operators see all."""
    await here.send(example("mine"))
    other, operator = here.client("outside.other"), here.client("tidegate.operator")
    query = "?by=outside.web"

    assert (await _decided(here.web, "/v1/messages/mine"))["by"] == "outside.web"
    assert (await _decided(operator, f"/v1/messages/mine{query}"))["by"] == "outside.web"
    assert (await other.get(f"/v1/messages/mine{query}")).status_code == 404
    missing = await other.get("/v1/messages/mine?source=/shop")
    assert missing.status_code == 404
    said = "nothing that outside.other sent with the id 'mine' from '/shop' is here for you"
    assert missing.json()["detail"].startswith(said)


async def test_the_stream_tells_what_is_written_and_goes_on_where_it_was_left(
    here: Ground,
) -> None:
    """By the sequences of the ledger; history first, then what is new, without gap or repeat."""
    begin = (await here.send(example("stream-0"))).json()["seq"]
    for n in range(1, 4):
        await here.send(example(f"stream-{n}"))
    first = await _stream(here.web, {"last-event-id": str(begin)}, "?to=shop.>", 2)
    assert [one["envelope"]["id"] for _, one in first] == ["stream-1", "stream-2"]

    listening = asyncio.create_task(
        _stream(here.web, {"last-event-id": str(first[-1][0])}, "?verdict=allow", 3)
    )
    for n in range(4, 6):
        await here.send(example(f"stream-{n}"))
    second = await listening
    assert [one["envelope"]["id"] for _, one in second] == ["stream-3", "stream-4", "stream-5"]
    assert [seq for seq, _ in second] == [one["seq"] for _, one in second]


async def test_the_stream_tells_nobody_of_others(here: Ground) -> None:
    """A publisher hears of its own messages; an operator of all of them."""
    operator, other = here.client("tidegate.operator"), here.client("outside.other")
    begin = (await here.send(example("hidden"))).json()["seq"]
    await other.post(
        "/v1/events", content=encode(example("seen")), headers={"content-type": STRUCTURED}
    )
    after = f"?after={begin - 1}"

    ((_, only),) = await _stream(other, {}, after, 1)
    assert only["envelope"]["id"] == "seen"
    everything = await _stream(operator, {}, after, 2)
    assert [one["envelope"]["id"] for _, one in everything] == ["hidden", "seen"]


@pytest.mark.parametrize(
    "query", ["?after=x", "?after=-1", "?kind=other", "?verdict=maybe", "?after=999999999"]
)
async def test_a_stream_of_nothing_that_there_is_is_refused(here: Ground, query: str) -> None:
    """With the parameter that is at fault."""
    answer = await here.web.get(f"/v1/stream{query}")

    assert (answer.status_code, answer.json()["parameter"]) == (400, query[1:].partition("=")[0])


async def test_requests_are_counted(here: Ground) -> None:
    """By route and status, on the metrics of the process."""
    (info,) = [info for info in running(here.state) if info.name == "edge"]
    async with httpx.AsyncClient() as client:

        async def metrics() -> str:
            return (await client.get(f"http://127.0.0.1:{info.telemetry}/metrics")).text

        async def nothing_on_its_way() -> bool:
            return "tidegate_edge_in_flight 0.0" in await metrics()

        await until(nothing_on_its_way)
        count = 'tidegate_edge_requests_total{route="/v1/events",status="200"}'
        assert count in await metrics()


async def test_an_edge_that_is_told_to_end_says_good_bye(here: Ground) -> None:
    """Last of the file: streams end, who waits for a result is told where it will be."""
    (edge,) = [info.pid for info in running(here.state) if info.name == "edge"]
    stream = asyncio.create_task(_stream(here.client("outside.other"), {}, "", 1))
    (agent,) = [info.pid for info in running(here.state) if info.name == "work.shouter"]
    os.kill(agent, signal.SIGSTOP)
    try:
        headers = {"prefer": "wait=30", "idempotency-key": "waits"}
        waiting = asyncio.create_task(
            here.web.post("/v1/tasks/text.shout", json="x", headers=headers)
        )

        async def sent() -> bool:
            return bool(await here.records("waits"))

        await until(sent)
        os.kill(edge, signal.SIGTERM)
        answer = await waiting
    finally:
        os.kill(agent, signal.SIGCONT)

    assert answer.status_code == 202
    assert answer.headers["location"].startswith("/v1/messages/waits")
    assert await stream == []


async def _decided(client: httpx.AsyncClient, where: str) -> dict[str, Any]:
    """What became of a message, once the index knows it."""
    found: dict[str, Any] = {}

    async def decided() -> bool:
        nonlocal found
        answer = await client.get(where)
        found = answer.json()
        return answer.status_code == 200 and found["status"] != "accepted"

    await until(decided)
    return found


async def _stream(
    client: httpx.AsyncClient, headers: dict[str, str], query: str, count: int
) -> list[tuple[int, dict[str, Any]]]:
    """The first events of a stream: id and data of each."""
    found: list[tuple[int, dict[str, Any]]] = []
    fields: dict[str, str] = {}
    async with client.stream("GET", f"/v1/stream{query}", headers=headers, timeout=20) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            fields[name] = value
            if not line and "data" in fields:
                found.append((int(fields["id"]), json.loads(fields["data"])))
                fields = {}
                if len(found) == count:
                    break
    return found
