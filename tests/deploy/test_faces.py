"""Settings of edge and console: what they name is tried before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tidegate.faces import check_faces
from tidegate.project import load_project
from tidegate_schemas.errors import InvalidDocument

OIDC = "oidc: {{issuer: https://a.example, audience: b, jwks: '{}', principals: {{ada: a.b}}}}"
FAULTS = {
    "certificate": (
        "edge:\n  tls:\n    certificate: edge.pem\n    key: edge.key\n",
        "3: edge.tls: {}/edge.pem: cannot be read: No such file or directory; put a good one",
    ),
    "console": (
        "console:\n  port: 0\n  tls: {certificate: a.pem, key: a.key}\n",
        "4: console.tls: {}/a.pem: cannot be read: No such file or directory; put a good one",
    ),
    "host": ("edge:\n  host: 192.0.2.1\n", "3: edge.host: cannot listen on 192.0.2.1:0: "),
    "no host": ("console:\n  host: é..b\n", "3: console.host: cannot listen on é..b:0: this is no"),
    "keys": (
        f"edge:\n  {OIDC.format('keys.json')}\n",
        "3: edge.oidc.jwks: {}/keys.json: cannot be read: No such file or directory",
    ),
    "empty keys": (
        f"edge:\n  {OIDC.format('empty.json')}\n",
        "3: edge.oidc.jwks: {}/empty.json: is no set of keys (RFC 7517): ",
    ),
}


def said(folder: Path, settings: str) -> str:
    """What is said of a project with these settings."""
    (folder / "tidegate.yaml").write_text(f"project: demo\n{settings}")
    with pytest.raises(InvalidDocument) as caught:
        check_faces(load_project(folder), ("edge", "console"))
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_file_line_and_field(tmp_path: Path, fault: str) -> None:
    """And with what is wrong with what is named there."""
    settings, expected = FAULTS[fault]
    (tmp_path / "empty.json").write_text('{"keys": []}')
    path = tmp_path / "tidegate.yaml"
    assert said(tmp_path, settings).startswith(f"{path}:{expected.format(tmp_path)}")


def test_an_address_that_somebody_else_has_is_a_fault(tmp_path: Path) -> None:
    """Of edge and console both; all faults are told at once."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        lines = said(tmp_path, f"edge: {{port: {port}}}\nconsole: {{port: {port}}}\n").splitlines()

    where, why = tmp_path / "tidegate.yaml", f"cannot listen on 127.0.0.1:{port}: Address already"
    assert lines[0].startswith(f"{where}:2: edge.port: {why}")
    assert lines[1].startswith(f"{where}:3: console.port: {why}")


@pytest.mark.parametrize("url", ["htps://a", "https://", "https://a:b/", "ftp://a/b", "HTTP://a/"])
def test_an_url_that_is_none_is_no_file(tmp_path: Path, url: str) -> None:
    """Nor is one whose keys anybody could change on their way."""
    said_of = said(tmp_path, f"edge:\n  {OIDC.format(url)}\n")
    assert said_of.startswith(f"{tmp_path / 'tidegate.yaml'}:3: edge.oidc.jwks: ")
