"""Settings of webhooks: what is wrong with them is found before anybody calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.edge.webhooks import Secret
from tidegate.faces import check_faces
from tidegate.project import Project, load_project
from tidegate_schemas.edge import WebhookSettings
from tidegate_schemas.errors import InvalidDocument, InvalidInput

from .kit import SETTINGS

FAULTS = {
    "no secret": ("{verify: github, principal: a.b}", "secret_file: give it, or `secret_env`"),
    "two": (
        "{verify: github, principal: a.b, secret_env: A, secret_file: a}",
        "secret_file: give it, or `secret_env`, and not both",
    ),
    "the bus": (
        "{verify: github, secret_env: A, principal: tidegate.operator}",
        "principal: tidegate.operator is the bus's own",
    ),
    "not signed like this": (
        "{verify: github, secret_env: A, principal: a.b, signature: {header: X}}",
        "signature: is for `verify: hmac`",
    ),
    "unsigned": (
        "{verify: hmac, secret_env: A, principal: a.b, event: {id: digest, type: '\"a\"'}}",
        "signature: is for `verify: hmac`, which needs it",
    ),
    "no rule": (
        "{verify: hmac, secret_env: A, principal: a.b, signature: {header: X}}",
        "event.id: is required with `verify: hmac`",
    ),
    "no tolerance": (
        "{verify: slack, secret_env: A, principal: a.b, tolerance: 0s}",
        "tolerance: Input should be greater than 0",
    ),
    "no CEL": (
        "{verify: stripe, secret_env: A, principal: a.b, event: {subject: 'body.'}}",
        "event.subject: `body.`: ",
    ),
    "no such name": (
        "{verify: stripe, secret_env: A, principal: a.b, event: {type: 'payload.x + body.y'}}",
        "event.type: `payload.x + body.y`: there is no `payload` here",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_file_line_and_field(tmp_path: Path, fault: str) -> None:
    """Also one of an expression: nobody learns of it by a webhook that is lost."""
    text, said = FAULTS[fault]
    path = tmp_path / "tidegate.yaml"
    path.write_text(f"{SETTINGS}edge:\n  webhooks:\n    shop: {text}\n")
    with pytest.raises(InvalidDocument) as caught:
        check_faces(load_project(tmp_path), ("edge",), {"A": "secret"})

    assert str(caught.value).startswith(f"{path}:6: edge.webhooks.shop.{said}")


def made(folder: Path, secret: str) -> Project:
    """A project with a webhook that has this secret."""
    webhook = f"{{verify: github, principal: outside.hooks, {secret}}}"
    (folder / "tidegate.yaml").write_text(f"{SETTINGS}edge: {{webhooks: {{shop: {webhook}}}}}\n")
    return load_project(folder)


def fault(project: Project, environ: dict[str, str] | None = None) -> str:
    """What is said of it before anything starts."""
    with pytest.raises(InvalidDocument) as caught:
        check_faces(project, ("edge",), environ or {})
    return str(caught.value)


def test_a_secret_that_is_not_there_is_found_at_the_start(tmp_path: Path) -> None:
    """Or that is empty, which would let in anybody, or that others can read."""
    project, where = made(tmp_path, "secret_env: SHOP"), f"{tmp_path / 'tidegate.yaml'}:4: "
    for environ in ({}, {"SHOP": ""}, {"SHOP": " \n"}):
        said = f"{where}edge.webhooks.shop.secret_env: SHOP: holds no secret"
        assert fault(project, environ) == said

    project, path = made(tmp_path, "secret_file: shop.secret"), tmp_path / "shop.secret"
    said = f"{where}edge.webhooks.shop.secret_file: {path}: "
    assert fault(project) == f"{said}there is no such file; it is to hold the secret"
    path.touch(0o600)
    assert fault(project) == f"{said}holds no secret"
    path.write_text("one\n")
    path.chmod(0o640)
    assert fault(project) == f"{said}others may read this secret; run chmod 600 {path}"


def test_a_secret_is_changed_while_the_edge_runs(tmp_path: Path) -> None:
    """Two lines are two secrets; the file is read again."""
    settings = WebhookSettings(verify="github", secret_file="a", principal="outside.hooks")
    path = tmp_path / "a"
    path.touch(0o600)
    path.write_bytes(b"one\n")
    secret = Secret(settings, tmp_path, {})
    assert secret.lines() == [b"one"]
    path.write_bytes(b"one\r\n\n  two \n")
    assert secret.lines() == [b"one", b"two"]
    path.unlink()
    with pytest.raises(InvalidInput, match="no such file"):
        secret.lines()
