"""The settings of a project."""

from pathlib import Path

import pytest

from tidegate_schemas.documents import loads
from tidegate_schemas.envelope import MAX_ENVELOPE_BYTES
from tidegate_schemas.errors import InvalidDocument
from tidegate_schemas.settings import GiB, MiB, Settings

YAML, TOML = Path("tidegate.yaml"), Path("tidegate.toml")


def test_a_project_needs_nothing_but_a_name() -> None:
    """Everything else has a default that works on one machine."""
    made = loads("project: demo", Settings, YAML)

    assert made == loads("project = 'demo'", Settings, TOML)
    assert made.publishers == ()
    assert made.server.port == 0
    assert (made.server.tls, made.server.tls_folder) == ("off", None)
    assert (made.server.ledger_bytes, made.server.ingress_bytes) == (20 * GiB, 16 * GiB)
    assert made.gateway.envelope_bytes == MAX_ENVELOPE_BYTES
    assert made.gateway.dedupe_window == 600.0


def test_settings_come_back_from_their_plain_values() -> None:
    """What is written out reads back as the same settings."""
    made = loads(
        "project: demo\npublishers: [ops.deploy]\nserver: {port: 4222, tls: off}", Settings, YAML
    )
    assert Settings.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("project: Demo", "project"),
        ("project: demo\npublishers: [ops]", "publishers[0]"),
        ("project: demo\npublishers: [ops.deploy, ops.Deploy]", "publishers[1]"),
        ("project: demo\npublishers: [ops.a.b]", "publishers[0]"),
        ("project: demo\nserver: {port: -1}", "server.port"),
        ("project: demo\nserver: {port: 65536}", "server.port"),
        ("project: demo\nserver: {port: 42:22}", "server.port"),
        ("project: demo\nserver: {ledger_bytes: 1}", "server.ledger_bytes"),
        ("project: demo\nserver: {ledger_bytes: 9223372036854775808}", "server.ledger_bytes"),
        ("project: demo\nserver: {ingress_bytes: 20GiB}", "server.ingress_bytes"),
        ("project: demo\nserver: {backlog: 0}", "server.backlog"),
        ("project: demo\nserver: {backlog: 1000000}", "server.ingress_bytes"),
        ("project: demo\nserver: {ingress_bytes: 1048576}", "server.ingress_bytes"),
        ("project: demo\nserver: {mode: jwt}", "server.mode"),
        ("project: demo\nserver: {connections: 1}", "server.connections"),
        ("project: demo\nserver: {tls: on}", "server.tls"),
        ("project: demo\nserver: {tls: false}", "server.tls"),
        ("project: demo\nserver: {tls_folder: ''}", "server.tls_folder"),
        ("project: demo\ngateway: {envelope_bytes: 1023}", "gateway.envelope_bytes"),
        ("project: demo\ngateway: {envelope_bytes: 524289}", "gateway.envelope_bytes"),
        ("project: demo\ngateway: {dedupe_window: -1s}", "gateway.dedupe_window"),
        ("project: demo\ngateway: {dedupe_entries: 0}", "gateway.dedupe_entries"),
        ("project: demo\ngateway: {window: 1s}", "gateway.window"),
        ("project: demo\ngateway:", "gateway"),
        ("project: demo\nservers: {}", "servers"),
    ],
)
def test_a_fault_has_its_field_and_line(text: str, field: str) -> None:
    """Each fault is the only one, and stands on the last line."""
    with pytest.raises(InvalidDocument) as caught:
        loads(text, Settings, YAML)

    expected = [(len(text.splitlines()), field)]
    assert [(p.line, p.field) for p in caught.value.problems] == expected


def test_the_limits_of_the_broker_are_taken() -> None:
    """The largest number that the broker keeps is a setting; so is the smallest useful one."""
    server = f"{{ledger_bytes: {2**63 - 1}, ingress_bytes: {3 * MiB}, backlog: 1}}"
    text = f"project: demo\nserver: {server}"
    assert loads(text, Settings, YAML).server.ledger_bytes == 2**63 - 1
