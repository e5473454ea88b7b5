"""The broker in operator mode (ADR-14): who may connect is signed, not listed at the server.

The permissions are those of `accounts`, translated: each role is a signing key of its account,
with the role's permissions as a template. So an agent is added by signing a token for it, which
no server hears of, and a token can claim nothing but who it is.

    operator ── signing key ─┬─ SYS     ── key `system` ─── who pushes revocations
                             ├─ BUS     ── a key a role ─── gateway, registrar
                             └─ AGENTS  ── a key a role ─── everybody else

Signing keys are used strictly: with the keys of operator and accounts themselves nobody signs
users, so there can be none that is not bound to a role.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_duration
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Principal

from . import accounts, jwt
from .accounts import Identity, Role
from .connection import Connection
from .jwt import Credentials, Key

SYSTEM = Principal("tidegate", "system")
"""Who may push the claims of accounts to the server, and nothing else."""

_SECOND = 1_000_000_000
_PUSH = "$SYS.REQ.CLAIMS.UPDATE"
_SYSTEM_KEY = "system"
_LOCK_SECONDS = 0.02
_STAND_IN = Principal("team-of-the-user", "name-of-the-user")
_TEMPLATE = {_STAND_IN.team: "{{tag(team)}}", _STAND_IN.name: "{{tag(name)}}"}
_NOTHING = jwt.Permission(deny=(">",))


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What the accounts may take.

    Attributes:
        store_bytes: of all streams together.
        connections: of all agents together; -1 is without limit, as below.
        subscriptions: of one connection of an agent.
        payload_bytes: of one message of an agent; the server has a limit of its own for all.
    """

    store_bytes: int
    connections: int = jwt.UNLIMITED
    subscriptions: int = jwt.UNLIMITED
    payload_bytes: int = jwt.UNLIMITED


class _Revoked(msgspec.Struct, frozen=True):
    at: int
    until: int = 0


class _State(msgspec.Struct, frozen=True):
    """What was issued and taken back; seconds since 1970.

    `issued` is that of the newest tokens of accounts. It grows with every change, also within a
    second: of two tokens the server keeps the one that was issued later.
    """

    created: int
    issued: int
    revoked: dict[str, dict[str, _Revoked]] = {}


class Authority:
    """The keys of a deployment and what they have signed. Make one with `open`."""

    def __init__(self, folder: Path, limits: AccountLimits, partition: int) -> None:
        """Strictly private: use `open`."""
        self._folder = folder
        self._limits = limits
        self._partition = partition
        static = _static(Path("unused"), "unused", 0, 0, partition)
        self._account_of = {
            user["nkey"]: name
            for name, account in static["accounts"].items()
            for user in account.get("users", ())
        } | {_SYSTEM_KEY: "SYS"}

    @classmethod
    def open(cls, folder: Path, limits: AccountLimits, *, now: int, partition: int = 0) -> Self:
        """The authority in a folder; makes keys and state first where there are none.

        Args:
            folder: of its own, mode 0700. Whoever can read it can be anybody.
            limits: of the accounts; they are in force after the next start or revocation.
            now: nanoseconds since 1970.
            partition: number in the names of the streams.

        Raises:
            InvalidInput: others may read a seed, or the state cannot be read.
        """
        self = cls(folder, limits, partition)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("operator", "operator-signing"):
            self._ensure(name, Key.OPERATOR)
        for name in ("SYS", "BUS", "AGENTS", *map(_file, self._account_of)):
            self._ensure(name, Key.ACCOUNT)
        state = _State(now // _SECOND, now // _SECOND)
        _write(folder / "state.json", msgspec.json.encode(state), replace=False)
        self._state()
        return self

    def configuration(self, *, store: Path, host: str = "127.0.0.1", port: int = -1) -> str:
        """The text of a nats-server configuration file, as `accounts.configuration` gives it.

        The same until something is revoked. It holds all revocations, so a server that lost its
        folder does not lose them; and a server that is started with an older text keeps what was
        pushed to it since, because it goes by the time of issue.

        Args:
            store: folder of the streams; the server keeps the accounts in a folder beside it.
            host: where to listen.
            port: where to listen; -1 takes a free one.
        """
        state = self._state()
        document = _static(store, host, port, self._limits.store_bytes, self._partition)
        names = list(document.pop("accounts"))
        document |= {
            "operator": self._sign("operator", self._operator(), "operator", state.created),
            "system_account": self._public("SYS"),
            "resolver": {
                "type": "full",
                "dir": str(store.with_name(f"{store.name}-accounts")),
                "allow_delete": False,
            },
            "resolver_preload": {self._public(n): self._account(n, state) for n in names},
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def credentials(
        self, principal: Principal, role: Role, *, now: int, expires: int | None = None
    ) -> Credentials:
        """A fresh key for a principal, and the token for it. No server hears of it.

        See `token`. `Credentials.text` is what a `.creds` file holds.
        """
        seed = Key.USER.new_seed()
        public_key = Key.USER.public(seed)
        return Credentials(self.token(principal, role, public_key, now=now, expires=expires), seed)

    def token(
        self,
        principal: Principal,
        role: Role,
        public_key: str,
        *,
        now: int,
        expires: int | None = None,
    ) -> str:
        """The token by which the holder of a key may connect as a principal.

        Args:
            principal: who it will be.
            role: what it may do.
            public_key: `U…`; its seed need not be known here.
            now: nanoseconds since 1970; what was revoked in the same second stays revoked.
            expires: when the server ends the connection, likewise; None is never.

        Raises:
            InvalidInput: no public key of a user, or it ends before it begins.
        """
        return self._token(principal, role.value, public_key, now, expires)

    def system_credentials(self, *, now: int, expires: int | None = None) -> Credentials:
        """For the connection of SYSTEM, over which `revoke` and `push` speak."""
        seed = Key.USER.new_seed()
        token = self._token(SYSTEM, _SYSTEM_KEY, Key.USER.public(seed), now, expires)
        return Credentials(token, seed)

    async def revoke(
        self,
        connection: Connection,
        public_key: str,
        role: Role,
        *,
        now: int,
        until: int | None = None,
    ) -> None:
        """Take back all that was issued to a key up to now, and cut its connections.

        It is written down before the server is told, so it is in force at the latest with the
        next start. Returns when the server has done it; repeating it is harmless.

        Args:
            connection: of SYSTEM.
            public_key: of the user.
            role: the role that its tokens name.
            now: nanoseconds since 1970.
            until: when all its tokens have expired, likewise; then it need not be kept. None
                keeps it for ever.

        Raises:
            InvalidInput: no public key of a user; or so many are revoked that the server would
                not read the account any more, and nothing was changed.
            Unavailable: the server did not answer: repeat it.
            ApiError: the server refused it.
        """
        Key.USER.check(public_key)
        name = self._account_of[role.value]
        async with self._locked():
            state = self._state()
            second = now // _SECOND
            kept = {
                key: entry
                for key, entry in state.revoked.get(name, {}).items()
                if not entry.until or entry.until > second
            }
            at = max(second, kept[public_key].at if public_key in kept else 0)
            kept[public_key] = _Revoked(at, 0 if until is None else -(-until // _SECOND))
            state = _State(
                state.created, max(second, state.issued + 1), {**state.revoked, name: kept}
            )
            account = self._account(name, state)  # before it is written, for it may be too long
            _write(self._folder / "state.json", msgspec.json.encode(state), replace=True)
            await connection.api(_PUSH, msgspec.Raw(account.encode()))

    async def push(self, connection: Connection) -> None:
        """Tell a server all accounts as they are now; for one whose state is not known.

        Raises:
            Unavailable: see `revoke`.
        """
        async with self._locked():
            state = self._state()
            for name in ("SYS", "BUS", "AGENTS"):
                await connection.api(_PUSH, msgspec.Raw(self._account(name, state).encode()))

    def _token(
        self, principal: Principal, key: str, public_key: str, now: int, expires: int | None
    ) -> str:
        Principal(principal.team, principal.name)  # a user named `*` would be everybody
        user = jwt.User(
            issuer_account=self._public(self._account_of[key]),
            tags=(f"team:{principal.team}", f"name:{principal.name}"),
        )
        return jwt.encode(
            user,
            subject=public_key,
            seed=self._seed(_file(key)),
            now=now,
            name=str(principal),
            expires=expires,
        )

    def _operator(self) -> jwt.Operator:
        return jwt.Operator(
            signing_keys=(self._public("operator-signing"),),
            system_account=self._public("SYS"),
            strict_signing_key_usage=True,
        )

    def _account(self, name: str, state: _State) -> str:
        """The token of an account: what `accounts.configuration` says of it, translated."""
        static = _static(Path("unused"), "unused", 0, 0, self._partition)["accounts"][name]
        known = {"users", "exports", "imports", "jetstream"}
        assert known.issuperset(static), f"{static.keys() - known} have no translation"
        scopes = {user["nkey"]: _template(user["permissions"]) for user in static.get("users", ())}
        if name == "SYS":
            inbox = f"{subjects.inbox(SYSTEM)}.>"
            scopes[_SYSTEM_KEY] = jwt.Template(
                pub=jwt.Permission(allow=(_PUSH,)), sub=jwt.Permission(allow=(inbox,))
            )
        ours = self._limits if name == "AGENTS" else AccountLimits(self._limits.store_bytes)
        streams = static.get("jetstream") == "enabled"
        body = jwt.Account(
            exports=tuple(map(_export, static.get("exports", ()))),
            imports=tuple(self._import(name, i, state) for i in static.get("imports", ())),
            limits=jwt.Limits(
                subs=ours.subscriptions,
                data=jwt.UNLIMITED,
                payload=ours.payload_bytes,
                imports=jwt.UNLIMITED,
                exports=jwt.UNLIMITED,
                wildcards=True,
                disallow_bearer=True,
                conn=ours.connections,
                leaf=0,
                disk_storage=ours.store_bytes if streams else 0,
                streams=jwt.UNLIMITED if streams else 0,
                consumer=jwt.UNLIMITED if streams else 0,
            ),
            signing_keys=tuple(
                jwt.Scope(key=self._public(_file(key)), role=key, template=template)
                for key, template in scopes.items()
            ),
            revocations={key: r.at for key, r in state.revoked.get(name, {}).items()},
            default_permissions=jwt.Permissions(pub=_NOTHING, sub=_NOTHING),
        )
        return self._sign(name, body, "operator-signing", state.issued)

    def _import(self, name: str, static: dict[str, Any], state: _State) -> jwt.Import:
        kind, (exporter, subject) = _kind(static), static[_kind(static)].values()
        leave = jwt.Activation(subject=subject, kind=kind)
        return jwt.Import(
            subject=subject,
            type=kind,
            account=self._public(exporter),
            # Always the same token, so that a revocation does not touch what is imported.
            token=self._sign(name, leave, exporter, state.created),
        )

    def _sign(self, about: str, body: Any, by: str, second: int) -> str:
        return jwt.encode(
            body,
            subject=self._public(about),
            seed=self._seed(by),
            now=second * _SECOND,
            name=f"tidegate {about}",
        )

    def _ensure(self, name: str, kind: Key) -> None:
        _write(self._path(name), kind.new_seed().encode() + b"\n", replace=False)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.nk"

    def _public(self, name: str) -> str:
        return (Key.OPERATOR if name.startswith("operator") else Key.ACCOUNT).public(
            self._seed(name)
        )

    def _seed(self, name: str) -> str:
        path = self._path(name)
        try:
            if path.stat().st_mode & 0o077:
                raise InvalidInput(f"{path}: others may read this seed; run chmod 600 {path}")
            return path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path}: no seed: {error}") from None

    def _state(self) -> _State:
        path = self._folder / "state.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidInput(f"{path}: the state of the authority: {error}") from error

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        """One at a time, of all processes: two pushes may not overtake each other."""
        with (self._folder / "lock").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_SECONDS)
            yield


def _static(store: Path, host: str, port: int, store_bytes: int, partition: int) -> dict[str, Any]:
    """The configuration without operator: one user a role, its key the role's name."""
    identities = [Identity(_STAND_IN, role, role.value) for role in Role]
    text = accounts.configuration(
        identities,
        store=store,
        store_bytes=store_bytes,
        host=host,
        port=port,
        partition=partition,
    )
    document: dict[str, Any] = json.loads(text)
    return document


def _template(static: dict[str, Any]) -> jwt.Template:
    """The permissions of the stand-in, as those of whoever has the tags."""

    def templated(permission: dict[str, list[str]]) -> jwt.Permission:
        return jwt.Permission(
            **{verb: tuple(map(_with_tags, listed)) for verb, listed in permission.items()}
        )

    return jwt.Template(pub=templated(static["publish"]), sub=templated(static["subscribe"]))


def _with_tags(subject: str) -> str:
    for name, tag in _TEMPLATE.items():
        subject = subject.replace(name, tag)
    return subject


def _kind(static: dict[str, Any]) -> Literal["stream", "service"]:
    return "service" if "service" in static else "stream"


def _export(static: dict[str, Any]) -> jwt.Export:
    many = static.get("response_type") == "stream"
    return jwt.Export(
        subject=static[_kind(static)],
        type=_kind(static),
        token_req="accounts" in static,
        response_type="Stream" if many else "",
        response_threshold=int(parse_duration(static.get("threshold", "0s")) * _SECOND),
    )


def _file(key: str) -> str:
    return f"signs-{key}"


def _write(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file, mode 0600, so that it is there whole or not at all, also after a crash.

    Without `replace`, one that is there stays.
    """
    if not replace and path.exists():
        return
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # another process was faster
                path.hardlink_to(part)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)
