"""Logs, `/metrics` and `/healthz`."""

from __future__ import annotations

import http.client
import io
import json
import sys
from collections.abc import Generator
from contextlib import closing
from typing import Any

import pytest
import structlog
from prometheus_client import Counter

from tidegate_bus import telemetry
from tidegate_bus.telemetry import Health, TelemetryServer, configure_logging

SEEN = Counter("tidegate_test_seen", "Something for the test to count")


@pytest.fixture
def health() -> Health:
    """The health of a process that has just begun."""
    return Health()


@pytest.fixture
def server(health: Health) -> Generator[TelemetryServer]:
    """A server on a free port."""
    with closing(TelemetryServer(health)) as server:
        yield server


def get(server: TelemetryServer, path: str) -> tuple[int, str, bytes]:
    """Status, content type and body of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read()


def test_metrics_are_in_the_format_of_prometheus(server: TelemetryServer) -> None:
    """What the process counts can be scraped."""
    SEEN.inc(3)
    status, kind, body = get(server, "/metrics")

    assert status == 200
    assert kind.startswith("text/plain")
    assert b"\ntidegate_test_seen_total 3.0\n" in body


def test_a_process_that_beats_is_healthy_and_shows_its_facts(
    server: TelemetryServer, health: Health
) -> None:
    """200, with what the process last reported."""
    health.beat(seq=7, agent="team.agent")
    status, kind, body = get(server, "/healthz")
    report = json.loads(body)

    assert (status, kind) == (200, "application/json")
    assert report.pop("beat_seconds") < telemetry.STALLED_SECONDS
    assert report == {"status": "ok", "seq": 7, "agent": "team.agent"}


def test_a_failure_is_503_until_it_is_taken_back(server: TelemetryServer, health: Health) -> None:
    """The answer says why; beats do not hide it, `fail(None)` ends it."""
    health.fail("the ledger is full")
    health.beat(seq=8)
    status, _, body = get(server, "/healthz")
    assert (status, json.loads(body)["status"]) == (503, "the ledger is full")

    health.fail(None)
    assert get(server, "/healthz")[0] == 200


def test_a_process_that_stopped_beating_is_503(
    server: TelemetryServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stuck event loop shows, because the answer comes from a thread."""
    monkeypatch.setattr(telemetry, "STALLED_SECONDS", -1.0)
    status, _, body = get(server, "/healthz")

    assert (status, json.loads(body)["status"]) == (503, "stalled")


def test_facts_of_any_type_can_be_shown(server: TelemetryServer, health: Health) -> None:
    """What has no JSON form of its own is shown as text."""
    health.beat(where=io.SEEK_SET, who=ValueError("x"))

    assert json.loads(get(server, "/healthz")[2])["who"] == "x"


def test_any_other_path_is_404_and_says_what_there_is(server: TelemetryServer) -> None:
    """Somebody who opens the port in a browser finds the way."""
    status, _, body = get(server, "/")

    assert (status, json.loads(body)) == (404, {"try": ["/metrics", "/healthz"]})


def test_close_gives_the_port_back_and_may_be_repeated(health: Health) -> None:
    """Nothing listens any more, and another server can take the port."""
    first = TelemetryServer(health)
    port = first.port
    first.close()
    first.close()
    with pytest.raises(ConnectionRefusedError):
        get(first, "/healthz")

    with closing(TelemetryServer(health, port)) as second:
        assert get(second, "/healthz")[0] == 200


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Generator[pytest.CaptureFixture[str]]:
    """What is written to stderr, which is no terminal here."""
    yield capsys
    structlog.contextvars.clear_contextvars()


def lines(logged: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Each line read as JSON."""
    return [json.loads(line) for line in logged.readouterr().err.splitlines()]


def test_logs_are_one_json_object_a_line(logged: pytest.CaptureFixture[str]) -> None:
    """With process, level and time; line feeds in values do not break the line."""
    configure_logging("gateway")
    structlog.get_logger().warning("first\nline", seq=3)
    structlog.get_logger().info("second")
    first, second = lines(logged)

    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "first\nline", "seq": 3, "level": "warning", "process": "gateway"}
    assert second["event"] == "second"


@pytest.mark.parametrize(
    "value",
    [2**70, "half a pair \ud800", b"\xff", object(), {1: 2}, float("nan")],
    ids=["over 64 bits", "surrogate", "bytes", "object", "integer key", "no number"],
)
def test_no_value_keeps_a_line_from_being_written(
    logged: pytest.CaptureFixture[str], value: object
) -> None:
    """Logging never raises into whoever logs."""
    configure_logging("gateway")
    structlog.get_logger().info("said", value=value)

    assert lines(logged)[0]["event"] == "said"


def test_a_traceback_is_logged_with_its_error(logged: pytest.CaptureFixture[str]) -> None:
    """The JSON line of an exception holds where it was raised."""
    configure_logging("gateway")
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("failed")

    assert "ValueError: why" in lines(logged)[0]["exception"]


def test_lower_levels_are_left_out(logged: pytest.CaptureFixture[str]) -> None:
    """`info` is the default, another can be given."""
    configure_logging("gateway")
    structlog.get_logger().debug("hidden")
    configure_logging("gateway", level="debug")
    structlog.get_logger().debug("shown")

    assert [line["event"] for line in lines(logged)] == ["shown"]


def test_people_on_a_terminal_get_text(
    monkeypatch: pytest.MonkeyPatch, logged: pytest.CaptureFixture[str]
) -> None:
    """On a terminal the same call writes for reading."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure_logging("gateway")
    structlog.get_logger().info("hello", seq=1)
    text = logged.readouterr().err

    assert "hello" in text
    assert not text.startswith("{")
