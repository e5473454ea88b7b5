"""Secrets: what is found, what is not, and that it is never repeated.

The samples are put together here, so that no scanner takes this file for a leak.
"""

from __future__ import annotations

import hashlib
import string

import msgspec
import pytest

from tidegate.demo.analysis.secrets import MAX_LEAKS, RULES, entropy, find_leaks, review_secrets
from tidegate.demo.git import read_patch
from tidegate.demo.patch import FilePatch, Patch

from .conftest import Repository

ALNUM = string.ascii_letters + string.digits
BASE32 = string.ascii_uppercase + "234567"


def random(length: int, letters: str = ALNUM) -> str:
    """Text that looks random and is the same in every run."""
    stream = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(8))
    return "".join(letters[byte % len(letters)] for byte in stream[:length])


SECRETS = {
    "aws-access-key": "AKIA" + random(16, BASE32),
    "github-token": "ghp" + "_" + random(36),
    "gitlab-token": "glpat" + "-" + random(20),
    "google-api-key": "AIza" + random(35),
    "model-api-key": "sk-" + "ant-" + random(60),
    "nats-seed": "SU" + random(56, BASE32),
    "slack-token": "xoxb" + "-123456789012-" + random(24),
    "stripe-key": "sk" + "_live_" + random(24),
}


def rules_of(*lines: str) -> list[str]:
    """The rules that match in lines, added one after the other."""
    file = FilePatch("a", [(n, line.encode()) for n, line in enumerate(lines, 1)])
    return [leak.rule for leak in find_leaks(file)]


@pytest.mark.parametrize(("rule", "secret"), SECRETS.items(), ids=SECRETS.keys())
def test_well_known_formats(rule: str, secret: str) -> None:
    """A key of a known format is found wherever it stands in a line."""
    for line in (secret, f'call("{secret}", 1)', f"key: {secret}", f"TOKEN={secret} # mine"):
        assert [rule] == rules_of(line)


def test_private_keys() -> None:
    """A private key is found at its header; code that only speaks of the header is not."""
    for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "):
        header = f"-----BEGIN {kind}PRIVATE" + " KEY-----"
        assert rules_of(header) == ["private-key"]
        assert rules_of(f'    "{header}\\nMIIEvQIBADANBgkqhkiG9w0B"') == ["private-key"]
        assert rules_of(f'if "{header}" in text:', header.replace("PRIVATE", "PUBLIC")) == []


def test_other_places() -> None:
    """Webhooks and the passwords of addresses are found too."""
    hook = "https://hooks.slack.com" + "/services/T12345678/B12345678/" + random(24)

    assert rules_of(hook) == ["slack-webhook"]
    assert rules_of(f"postgres://app:{random(16)}@db.internal/x") == ["url-password"]


@pytest.mark.parametrize(
    "name", ["password", "PASSWORD", "db_passwd", "api_key", "apiKey", "client-secret", "token"]
)
def test_passwords_that_look_real(name: str) -> None:
    """A quoted value that looks random is found behind any usual name of a password."""
    value = "k8#jQ2vLx9pW"
    for line in (f'{name} = "{value}"', f"'{name}': '{value}',", f'{name}: str = "{value}"'):
        assert rules_of(line) == ["password"]


@pytest.mark.parametrize(
    "line",
    [
        'password = "password123"',
        'password = "changeme-2024"',
        'password = "aaaaaaaaaaaa1"',
        'password = "correct horse battery 1"',
        'password = os.environ["DB_PASSWORD_2"]',
        'password = "${DB_PASSWORD_2}"',
        'password = "{{ vault.db_pass1 }}"',
        'token = "<your-token-1>"',
        'token = "xxxxxxxx1234abcd"',
        'secret = "tls-secret-1"',
        'secret_name = "k8#jQ2vLx9pW"',
        'token_url = "https://auth.internal/v2/token"',
        'if password == "k8#jQ2vLx9pW":',
        "password: hunter2hunter3",
        'key = "k8#jQ2vLx9pW"',
        "postgres://user:password1@localhost/x",
        "https://user:p%40ssword@host/",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp" + "_" + "x" * 36,
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
    ],
)
def test_what_only_looks_like_a_secret(line: str) -> None:
    """Placeholders, names, references, comparisons and hashes raise no alarm."""
    assert rules_of(line) == []


def test_a_secret_is_never_repeated() -> None:
    """The report holds the place and a masked form, and nothing that could be used."""
    lines = [(n, secret.encode()) for n, secret in enumerate(SECRETS.values(), 1)]
    lines.append((99, b'password = "k8#jQ2vLx9pW"'))

    review = review_secrets(Patch((FilePatch("conf/a.ini", lines),)))
    text = msgspec.json.encode(review).decode()

    assert len(SECRETS) + 1 == review.total
    assert (
        review.leaks[-1].path,
        review.leaks[-1].line,
        review.leaks[-1].masked,
    ) == ("conf/a.ini", 99, "k*** (12 characters)")
    for secret in (*SECRETS.values(), "k8#jQ2vLx9pW"):
        assert secret[8:] not in text


def test_only_added_lines_are_searched(repository: Repository) -> None:
    """A secret that goes, or that stands in a file that only moves, is not this commit's."""
    secret = SECRETS["aws-access-key"]
    other = "".join(f"{n}\n" for n in range(30))
    added = repository.commit({"a.ini": f"{other}key = {secret}\n"})
    repository.git("mv", "a.ini", "b.ini")
    moved = repository.commit({"b.ini": f"more\n{other}key = {secret}\n"})
    removed = repository.commit({"b.ini": other})

    reviews = [review_secrets(read_patch(repository.path, s)) for s in (added, moved, removed)]

    assert [review.total for review in reviews] == [1, 0, 0]
    assert (reviews[0].leaks[0].path, reviews[0].leaks[0].line) == ("a.ini", 31)
    assert [review.lines for review in reviews] == [31, 1, 0]


def test_a_secret_that_a_merge_slips_in(repository: Repository) -> None:
    """A merge is searched for what it adds itself, not for what its parents added."""
    repository.commit({"a": "1\n"})
    repository.conflict({"a": "2\n"}, {"a": "3\n", "b": SECRETS["stripe-key"]})
    sha = repository.commit({"a": SECRETS["github-token"], "b": SECRETS["stripe-key"]})

    review = review_secrets(read_patch(repository.path, sha))

    assert [leak.rule for leak in review.leaks] == ["github-token"]


def test_what_was_not_searched_is_told(repository: Repository) -> None:
    """Binary files are counted, a patch that was cut is not called complete."""
    sha = repository.commit({"bin": b"\0", "text": "x\n" * 5_000})

    assert review_secrets(read_patch(repository.path, sha)).binary == 1
    assert review_secrets(read_patch(repository.path, sha)).complete
    assert not review_secrets(read_patch(repository.path, sha, limit=2_000)).complete


def test_a_list_of_leaks_is_bounded() -> None:
    """The first leaks are listed and all are counted."""
    line = SECRETS["aws-access-key"].encode()

    review = review_secrets(Patch((FilePatch("a", [(n, line) for n in range(1000)]),)))

    assert (len(review.leaks), review.total) == (MAX_LEAKS, 1000)


def test_every_rule_has_a_sample_here() -> None:
    """No rule is without a test."""
    elsewhere = {"password", "private-key", "slack-webhook", "url-password"}

    assert {rule.name for rule in RULES} == SECRETS.keys() | elsewhere


def test_entropy() -> None:
    """Entropy is 0 for one letter repeated and 3 bits for eight different ones."""
    assert entropy(b"aaaa") == 0
    assert entropy(b"abcdefgh") == 3
