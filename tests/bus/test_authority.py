"""An authority for development: what it makes, keeps and never overwrites."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate_bus.broker import authority, tls
from tidegate_bus.broker.authority import create, examine
from tidegate_schemas.errors import InvalidInput

NOW = datetime.datetime(2030, 1, 31, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
FILES = {
    *("authority.key", "authority.pem", "server.key", "server.pem", "client.key", "client.pem"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "state" / "tls"


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the user allows others by default."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def texts(folder: Path) -> dict[str, str]:
    """Every file of a folder."""
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.usefixtures("umask")
def test_only_the_owner_may_read_what_is_made(folder: Path) -> None:
    """Files 0600 in a folder 0700, made and renewed, and nothing else is left in it."""
    for renew in (False, True):
        create(folder, renew=renew)

        assert {path.name for path in folder.iterdir()} == FILES
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_made_serves_both_sides(folder: Path) -> None:
    """Server and client take it, each verifying strictly what the other will show."""
    written = create(folder)

    assert {path.name for path in written} == FILES
    assert tls.server_block(folder, mutual=True)["verify"] is True
    assert tls.client_context(folder).cert_store_stats()["x509_ca"] == 1


def test_a_certificate_is_for_this_machine_and_the_hosts_that_are_named(folder: Path) -> None:
    """Names are in lower case, addresses in their short form, and none is there twice."""
    hosts = ["Bus.Example.com.", "10.0.0.1", "0:0:0:0:0:0:0:2", "localhost", "bus.example.com"]
    create(folder, hosts, now=NOW)
    trusted, server, client = examine(folder)

    machine = [socket.gethostname().lower()]
    expected = ["localhost", "127.0.0.1", "::1", *machine, "bus.example.com", "10.0.0.1", "::2"]
    assert list(server.names) == list(dict.fromkeys(expected))
    assert trusted.names == client.names == ()


@pytest.mark.parametrize(
    "host", ["", "a b", "-a", "a-", "a..b", "*.example.com", "ä.example", "1.2.3.4/8", "x" * 64]
)
def test_what_is_no_host_is_refused_before_anything_is_written(folder: Path, host: str) -> None:
    """A certificate for a name that nobody can have helps nobody."""
    with pytest.raises(InvalidInput, match="no name and no IP address of a host"):
        create(folder, [host])
    assert not folder.exists()


def test_an_authority_lasts_a_year_and_certificates_90_days(folder: Path) -> None:
    """They begin an hour early, for clocks that are late; the days left are whole ones."""
    create(folder, now=NOW)
    trusted, server, client = examine(folder)

    assert trusted.begins == server.begins == client.begins == NOW - DAY / 24
    assert trusted.ends == NOW + 365 * DAY
    assert server.ends == client.ends == NOW + 90 * DAY
    assert (server.days_left(NOW), server.days_left(server.ends)) == (90, 0)
    assert server.days_left(server.ends + DAY / 24) == -1


def test_no_certificate_outlives_its_authority(folder: Path) -> None:
    """One that is made late ends with it; after that none is made any more."""
    create(folder, now=NOW)
    create(folder, renew=True, now=NOW + 300 * DAY)
    trusted, server, client = examine(folder)

    assert server.ends == client.ends == trusted.ends
    with pytest.raises(InvalidInput, match=rf"has expired; remove {folder} and run this again"):
        create(folder, renew=True, now=trusted.ends)


def test_renewing_keeps_the_authority_and_the_names(folder: Path) -> None:
    """Certificates and keys are new, what clients trust is not; more hosts may be named."""
    create(folder, ["one.example"])
    before, names = texts(folder), examine(folder)[1].names
    written = create(folder, ["two.example"], renew=True)
    after = texts(folder)

    assert {path.name for path in written} == FILES - {"authority.key", "authority.pem"}
    assert {name for name in FILES if before[name] == after[name]} == FILES - {
        path.name for path in written
    }
    assert examine(folder)[1].names == (*names, "two.example")


def test_what_is_there_is_not_made_again(folder: Path) -> None:
    """Without being asked to renew, nothing is written."""
    create(folder)
    before = texts(folder)
    with pytest.raises(InvalidInput, match="--renew makes new certificates"):
        create(folder, ["more.example"])
    assert texts(folder) == before


def test_what_is_missing_is_made_and_the_rest_stays(folder: Path) -> None:
    """So that it can be run again after it was interrupted."""
    create(folder)
    before = texts(folder)
    (folder / "client.pem").unlink()
    written = create(folder)
    after = texts(folder)

    assert {path.name for path in written} == {"client.key", "client.pem"}
    assert all(after[name] == before[name] for name in FILES if not name.startswith("client"))


@pytest.mark.parametrize("left", sorted(FILES))
def test_files_that_were_not_made_here_are_not_touched(folder: Path, left: str) -> None:
    """Somebody's own certificates are named, and nothing is written beside them."""
    folder.mkdir(parents=True)
    (folder / left).write_text("somebody's")
    for renew in (False, True):
        with pytest.raises(InvalidInput, match=f"{folder / left} was not made here"):
            create(folder, renew=renew)
    assert texts(folder) == {left: "somebody's"}


def test_an_authority_of_somebody_else_signs_nothing_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that only looks the same, with another key, nor one with its key."""
    create(folder)
    create(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "authority.key", folder)
    before = texts(folder)
    with pytest.raises(InvalidInput, match="was not made here"):
        create(folder, renew=True)
    assert texts(folder) == before

    monkeypatch.setattr(authority, "_ORGANIZATION", "Example")
    create(tmp_path / "company")
    monkeypatch.undo()
    before = texts(tmp_path / "company")
    with pytest.raises(InvalidInput, match="was not made here"):
        create(tmp_path / "company", renew=True)
    assert texts(tmp_path / "company") == before


def test_the_key_of_an_authority_that_others_may_read_is_not_used(folder: Path) -> None:
    """The message says how to mend it."""
    create(folder)
    key = folder / "authority.key"
    key.chmod(key.stat().st_mode | stat.S_IRGRP)
    with pytest.raises(InvalidInput, match=f"chmod 600 {key}"):
        create(folder, renew=True)


def test_without_certificates_there_is_nothing_to_examine(folder: Path) -> None:
    """The message says how to make some; a file that holds none is named."""
    with pytest.raises(InvalidInput, match=f"no certificates in {folder}; `tidegate tls create`"):
        examine(folder)
    create(folder)
    (folder / "server.pem").write_text("nothing")
    with pytest.raises(InvalidInput, match=r"server\.pem: holds no certificate in PEM"):
        examine(folder)


def test_a_publisher_does_not_pay_for_what_makes_certificates() -> None:
    """Neither importing the product's door nor reading certificates loads cryptography."""
    code = (
        "import sys, tidegate, tidegate_bus.broker.authority, tidegate.project\n"
        "print(*sorted({'cryptography', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == ""
