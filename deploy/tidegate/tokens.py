"""Tokens: what an outside system, or a person, shows over HTTP to be taken for a principal.

    tg_<id>_<secret>        12 and 64 hexadecimal digits; the id is no secret

The file knows the SHA-256 of each, never the token: whoever reads it cannot use it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tidegate_bus.identity.guarded import GuardedFile, Stamp
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.identity import GIVEN, Role, is_built_in
from tidegate_schemas.rate import Rate
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import OPERATOR

_ID = re.compile(r"[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOBODY = "0" * 64


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of a token.

    Attributes:
        id: by which it is listed and revoked.
        principal: `team.name` whom it stands for.
        digest: SHA-256 of the token, hexadecimal.
        created: RFC 3339.
        expires: RFC 3339; when it ends, if ever.
        note: what it is for.
        rate: how often it may be used, see `Rate`; the settings say it by default.
    """

    id: str
    principal: str
    digest: str
    created: str
    expires: str | None = None
    note: str = ""
    rate: str | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: tuple[Token, ...] = ()


class Tokens:
    """The file of tokens; read again when it was changed."""

    def __init__(self, path: Path) -> None:
        self._file = GuardedFile(path, 0o600)
        self._stamp: Stamp | None = (0, 0, 0)
        self._tokens: tuple[Token, ...] = ()
        self._known: dict[str, tuple[Token, int | None]] = {}

    def add(
        self,
        principal: Principal,
        *,
        now: int,
        note: str = "",
        expires: int | None = None,
        rate: str | None = None,
    ) -> tuple[Token, str]:
        """Make a token; with its text, which nobody can find out later.

        Args:
            principal: whom it is to stand for; see `check_holder`.
            now: ns since 1970.
            note: what it is for, one line.
            expires: ns since 1970; when it ends, if ever.
            rate: how often it may be used, see `Rate`.

        Raises:
            InvalidInput: the note is no line, the rate is none, or the file is damaged.
        """
        id = secrets.token_hex(6)
        text = f"tg_{id}_{secrets.token_hex(32)}"
        token = Token(
            id,
            str(principal),
            _digest(text),
            rfc3339(now),
            None if expires is None else rfc3339(expires),
            note,
            rate,
        )
        try:
            _check(token)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        with self._file.locked():
            self._write((*self.read(), token))
        return token, text

    def revoke(self, id: str) -> Token:
        """Take a token away; what it was.

        Raises:
            InvalidInput: there is none of this id, or the file is damaged.
        """
        with self._file.locked():
            tokens = self.read()
            found = next((token for token in tokens if token.id == id), None)
            if found is None:
                raise InvalidInput(f"there is no token {id}; `tidegate token list` tells which are")
            self._write(token for token in tokens if token is not found)
        return found

    def revoke_all(self, principal: Principal) -> tuple[Token, ...]:
        """Take away all that stand for somebody; what they were.

        Raises:
            InvalidInput: the file is damaged.
        """
        with self._file.locked():
            tokens = self.read()
            found = tuple(token for token in tokens if token.principal == str(principal))
            if found:
                self._write(token for token in tokens if token not in found)
        return found

    def read(self) -> tuple[Token, ...]:
        """All of them, the oldest first.

        Raises:
            InvalidInput: the file does not hold what it must.
        """
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return self._tokens
        content = self._file.read()
        try:
            tokens = msgspec.json.decode(content, type=_File).tokens if content else ()
            known = {token.id: (token, _check(token)) for token in tokens}
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidInput(f"{self._file.path}: {error}") from error
        self._tokens, self._known, self._stamp = tokens, known, stamp
        return tokens

    def stamp(self) -> Stamp | None:
        """Another one after each change."""
        return self._file.stamp()

    def find(self, text: str, now: int) -> Token | None:
        """The token that somebody shows, unless there is none or it has ended.

        How long this takes does not tell how much of the token was right.

        Args:
            text: `tg_…`, as it was shown.
            now: ns since 1970.

        Raises:
            InvalidInput: see `read`.
        """
        self.read()
        found, end = self._known.get(text[3:15], (None, None))
        shown = _digest(text)
        if not hmac.compare_digest(shown, found.digest if found else _NOBODY):
            return None
        return found if end is None or now < end else None

    def _write(self, tokens: Iterable[Token]) -> None:
        self._file.write(msgspec.json.format(msgspec.json.encode(_File(tuple(tokens)))) + b"\n")


def check_holder(principal: Principal, role: Role | None) -> Role:
    """Give what somebody is, if it may be spoken for over HTTP.

    Of the bus's own principals only the operator may: the others are processes of the stack.

    Args:
        principal: who.
        role: what it is; None if it is nothing.

    Raises:
        InvalidInput: it may not; says why.
    """
    if is_built_in(str(principal)) and principal != OPERATOR:
        raise InvalidInput(
            f"{principal} is the bus's own; of those only {OPERATOR} comes over HTTP"
        )
    if role is None:
        raise InvalidInput(
            f"{principal} may not connect: unknown, revoked or expired; "
            "`tidegate identity list` tells who may"
        )
    if role not in GIVEN:
        raise InvalidInput(f"{principal}: a {role} does not come over HTTP")
    return role


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check(token: Token) -> int | None:
    """See to it that a token can be used; when it ends, ns since 1970.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not _ID.fullmatch(token.id) or not _DIGEST.fullmatch(token.digest):
        raise ValueError("a token needs an id of 12 and a digest of 64 hexadecimal digits")
    try:
        Principal.parse(token.principal)
        parse_rfc3339(token.created)
        if token.rate is not None:
            Rate.parse(token.rate)
        if not token.note.isprintable():
            raise ValueError("a note is one line of text")
        return None if token.expires is None else parse_rfc3339(token.expires)
    except (InvalidInput, ValueError) as error:
        raise ValueError(f"token {token.id}: {error}") from None
