"""Secrets in added lines: well-known key formats, and passwords that look like real ones.

A false alarm costs more than it seems (people stop to look), so a match must also look random,
and placeholders of tests and documentation (`changeme`, `<token>`, `password123`) are passed
over, at the price that a real password of that kind is missed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from tidegate.demo.patch import FilePatch, Patch
from tidegate.demo.review import Leak, SecretsReview

MAX_LEAKS = 20
MAX_LINE = 20_000
"""Characters of a line that are searched; beyond are bundles that no one wrote."""

_PLACEHOLDER = re.compile(
    rb"example|change.?me|your|dummy|placeholder|redacted|fake|sample|test|localhost|xxx"
    rb"|\*\*\*|\.\.\.|[<>{}$\\]|%[sd(]",
    re.IGNORECASE,
)
_WORDS = re.compile(rb"(?:[A-Za-z]+\d{0,3}|\d{1,3})(?:[-_. /](?:[A-Za-z]+\d{0,3}|\d{1,3}))+")
"""Words with separators, e.g. `tls-secret-1`: a name of a secret."""
_OBVIOUS = re.compile(
    rb"(?:a|bad|my|new|old|some|super|the|wrong)?[-_]?"
    rb"(?:p[a@]ss(?:w[o0]rd|wd|phrase)?|key|secret|token|user)\W*\d*\W*",
    re.IGNORECASE,
)
"""What people write when any password will do, e.g. `password123`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of secret.

    Attributes:
        name: what the report calls it.
        hints: lower case; without any of them in the text, the pattern is not tried.
        pattern: its group `secret`, or all of it, is the secret.
        shown: characters that the report shows; what the format says anyway.
        entropy: bits a character that the secret must have.
        guessed: no format says that it is a secret, so it must not look like a word either.
    """

    name: str
    hints: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    shown: int = 4
    entropy: float = 3.0
    guessed: bool = False


_PASSWORD_WORDS = (b"password", b"passwd", b"pwd", b"secret", b"token", b"key")

RULES = (
    Rule(
        "private-key",
        (b"private key",),
        re.compile(
            rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
            rb"(?:\\[rn]|\s)*(?:$|[A-Za-z0-9+/]{16})"
        ),
        shown=10,
        entropy=0,
    ),
    Rule(
        "aws-access-key",
        (b"akia", b"asia"),
        re.compile(rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    ),
    Rule(
        "github-token",
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
        re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22}_\w{59})\b"),
    ),
    Rule("gitlab-token", (b"glpat-",), re.compile(rb"\bglpat-[\w-]{20,}"), shown=6),
    Rule(
        "slack-token",
        (b"xox", b"xapp-"),
        re.compile(rb"\b(?:xox[abeoprs]|xapp)-(?:\d+-)+[A-Za-z0-9-]{10,}"),
    ),
    Rule(
        "slack-webhook",
        (b"hooks.slack.com",),
        re.compile(rb"hooks\.slack\.com/services/(?P<secret>T\w{8,}/B\w{8,}/\w{20,})"),
        shown=1,
    ),
    Rule(
        "stripe-key",
        (b"_live_",),
        re.compile(rb"\b[sr]k_live_[A-Za-z0-9]{20,}"),
        shown=8,
    ),
    Rule("google-api-key", (b"aiza",), re.compile(rb"\bAIza[\w-]{35}(?![\w-])")),
    Rule(
        "model-api-key",
        (b"sk-",),
        re.compile(rb"\bsk-(?:ant|proj|svcacct)-[\w-]{32,}"),
        shown=6,
    ),
    Rule(
        "nats-seed",
        (b"sa", b"sc", b"sn", b"so", b"su", b"sx"),
        re.compile(rb"\bS[ACNOUX][A-Z2-7]{56}\b"),
        shown=2,
    ),
    Rule(
        "url-password",
        (b"://",),
        re.compile(
            rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@'\"]{1,64}:(?P<secret>[^\s/@'\"]{8,128})@[\w.-]+"
        ),
        shown=1,
        guessed=True,
    ),
    Rule(
        "password",
        _PASSWORD_WORDS,
        re.compile(
            rb"(?:passw(?:or)?d|pwd|secret|token|(?:api|access|auth|private)[_-]?key)[\"']?"
            rb"(?:\s*:\s*\w+)?\s*(?:=>|:=|=|:)\s*[\"'](?P<secret>[^\"'\s]{8,128})[\"']",
            re.IGNORECASE,
        ),
        shown=1,
        guessed=True,
    ),
)


def review_secrets(patch: Patch) -> SecretsReview:
    """Search all lines that a commit adds."""
    leaks = [leak for file in patch.files for leak in find_leaks(file)]
    return SecretsReview(
        leaks=tuple(leaks[:MAX_LEAKS]),
        total=len(leaks),
        lines=sum(len(file.added) for file in patch.files),
        binary=sum(file.binary for file in patch.files),
        complete=patch.complete,
    )


def find_leaks(file: FilePatch) -> Iterator[Leak]:
    """The secrets in one file, at most one a line."""
    text = b"\n".join(line for _, line in file.added).lower()
    rules = [rule for rule in RULES if any(hint in text for hint in rule.hints)]
    if not rules:
        return
    for number, line in file.added:
        for rule in rules:
            if secret := _find(rule, line[:MAX_LINE]):
                yield Leak(file.path, number, rule.name, mask(secret, rule.shown))
                break


def mask(secret: bytes, shown: int) -> str:
    """The first characters, stars for the others, and how many there are."""
    return f"{secret[:shown].decode('utf-8', 'replace')}*** ({len(secret)} characters)"


def entropy(text: bytes) -> float:
    """Shannon entropy in bits a character: 0 for one repeated, about 4 for random hexadecimal."""
    counts = Counter(text).values()
    return sum(n / len(text) * math.log2(len(text) / n) for n in counts)


def _find(rule: Rule, line: bytes) -> bytes | None:
    for match in rule.pattern.finditer(line):
        secret = match["secret"] if "secret" in rule.pattern.groupindex else match[0]
        said = match[0].rpartition(b"://")[2] if rule.guessed else secret
        if rule.entropy and (_PLACEHOLDER.search(said) or entropy(secret) < rule.entropy):
            continue
        if not rule.guessed or _looks_random(unquote_to_bytes(secret)):
            return secret
    return None


def _looks_random(secret: bytes) -> bool:
    """Letters and digits, and no address, name or word that people use for such things."""
    return (
        re.search(rb"[A-Za-z]", secret) is not None
        and re.search(rb"\d", secret) is not None
        and b"://" not in secret
        and not _WORDS.fullmatch(secret)
        and not _OBVIOUS.fullmatch(secret)
    )
