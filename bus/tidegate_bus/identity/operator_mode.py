"""The broker in operator mode (ADR-14): who may connect is signed, not listed at the server.

The permissions are those of `accounts`, translated: each role is a signing key of its account,
with the role's permissions as a template. So an agent is added by signing a token for it, which
no server hears of, and a token can claim nothing but who it is.

    operator ── signing key ─┬─ SYS     ── a key a role ── the warden, who pushes revocations
                             ├─ BUS     ── a key a role ── gateway, registrar
                             └─ AGENTS  ── a key a role ── everybody else

Signing keys are used strictly: with the keys of operator and accounts themselves nobody signs
users, so there can be none that is not bound to a role.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from tidegate_bus.broker import accounts
from tidegate_bus.broker.accounts import Identity
from tidegate_bus.connection import Connection
from tidegate_schemas.clock import parse_duration
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

from . import jwt
from .credentials import Credentials
from .jwt import Key
from .keyring import write_secret

_SECOND = 1_000_000_000
_ACCOUNTS = ("SYS", "BUS", "AGENTS")
_PUSH = "$SYS.REQ.CLAIMS.UPDATE"
_LOCK_SECONDS = 0.02
_STAND_IN = Principal("team-of-the-user", "name-of-the-user")
_TAGS = {_STAND_IN.team: "{{tag(team)}}", _STAND_IN.name: "{{tag(name)}}"}
_NOTHING = jwt.Permission(deny=(">",))
_NOWHERE = Path("nowhere")


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What the accounts may take; the server's own limits hold as well.

    Attributes:
        store_bytes: of all streams together.
        connections: of all agents together; -1 is without limit, as below.
        subscriptions: of one connection of an agent.
        payload_bytes: of one message of an agent.
    """

    store_bytes: int
    connections: int = jwt.UNLIMITED
    subscriptions: int = jwt.UNLIMITED
    payload_bytes: int = jwt.UNLIMITED


class _Revoked(msgspec.Struct, frozen=True):
    at: int
    until: int = 0


class _Issued(msgspec.Struct, frozen=True):
    """The newest token of an account: when it was issued, the how manieth, what it revokes.

    The time grows with every token, also within a second: of two of them the server keeps the
    one that was issued later.
    """

    at: int
    serial: int = 0
    revoked: dict[str, _Revoked] = {}

    def again(self, second: int, revoked: dict[str, _Revoked]) -> _Issued:
        return _Issued(max(second, self.at + 1), self.serial + 1, revoked)


class _State(msgspec.Struct, frozen=True):
    """What was issued and taken back; times in seconds since 1970."""

    created: int
    accounts: dict[str, _Issued]


class Authority:
    """The keys of a deployment and what they have signed. Make one with `open`."""

    def __init__(self, folder: Path, limits: AccountLimits, partition: int) -> None:
        """Strictly private: use `open`."""
        self._folder = folder
        self._limits = limits
        self._partition = partition

    @classmethod
    def open(cls, folder: Path, limits: AccountLimits, *, now: int, partition: int = 0) -> Self:
        """The authority in a folder; makes keys and state first where there are none.

        Args:
            folder: of its own, mode 0700. Whoever can read it can be anybody.
            limits: of the accounts; changed ones are in force after the next start.
            now: nanoseconds since 1970.
            partition: number in the names of the streams.

        Raises:
            InvalidInput: others may read a seed, or one or the state cannot be read.
        """
        self = cls(folder, limits, partition)
        for name in ("operator", "operator-signing", *_ACCOUNTS, *map(_signs, Role)):
            if not self._path(name).exists():
                with contextlib.suppress(FileExistsError):  # another process was faster
                    write_secret(self._path(name), _kind_of(name).new_seed(), replace=False)
            self._public(name)
        if not self._state_path.exists():
            with contextlib.suppress(FileExistsError):
                self._save(_first(now // _SECOND), replace=False)
        self._state()
        return self

    def configuration(
        self,
        *,
        store: Path,
        host: str = "127.0.0.1",
        port: int = -1,
        tls: dict[str, Any] | None = None,
        log: Path | None = None,
    ) -> str:
        """The text of a nats-server configuration file, see `accounts.configuration`.

        The same until something is revoked or the limits change. It holds all revocations, so
        that a server which lost its folder does not lose them; a server that is started with an
        older text keeps what was pushed to it since, because it goes by the time of issue.

        Args:
            store: folder of the streams; the server keeps the accounts in one beside it.
            host: where to listen.
            port: where to listen; -1 takes a free one.
            tls: the block of that name, where clients must speak TLS.
            log: see `accounts.configuration`.
        """
        state = self._state()
        document: dict[str, Any] = json.loads(
            accounts.configuration(
                (),
                store=store,
                store_bytes=self._limits.store_bytes,
                host=host,
                port=port,
                tls=tls,
                log=log,
                partition=self._partition,
            )
        )
        del document["accounts"]
        operator = jwt.Operator(
            signing_keys=(self._public("operator-signing"),),
            system_account=self._public("SYS"),
            strict_signing_key_usage=True,
        )
        document |= {
            "operator": self._sign("operator", operator, "operator", state.created),
            "system_account": self._public("SYS"),
            "resolver": {
                "type": "full",
                "dir": str(store.with_name(f"{store.name}-accounts")),
                "allow_delete": False,
            },
            "resolver_preload": {self._public(n): self._account(n, state) for n in _ACCOUNTS},
        }
        # Not with ensure_ascii, see `accounts.configuration`.
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def credentials(
        self, principal: Principal, role: Role, *, now: int, expires: int | None = None
    ) -> Credentials:
        """A fresh key for a principal, and the token for it, see `token`.

        `jwt.credentials_text` makes a `.creds` file of them.
        """
        seed = Key.USER.new_seed()
        public_key = Key.USER.public(seed)
        return Credentials(seed, self.token(principal, role, public_key, now=now, expires=expires))

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

        No server hears of it. It cannot be taken back one by one, only all of a key.

        Args:
            principal: who it will be.
            role: what it may do.
            public_key: `U…`; its seed need not be known here.
            now: nanoseconds since 1970; in the second of a revocation it is revoked as well.
            expires: when the server ends the connection, likewise; None is never.

        Raises:
            InvalidInput: no public key of a user, or it ends before it begins.
            InvalidName: no principal; one named `*` would be everybody.
        """
        principal = Principal(principal.team, principal.name)  # checked here, whoever made it
        body = jwt.User(
            issuer_account=self._public(accounts.account(role)),
            tags=(f"team:{principal.team}", f"name:{principal.name}"),
        )
        return jwt.encode(
            body,
            subject=public_key,
            seed=self._seed(_signs(role)),
            now=now,
            name=str(principal),
            expires=expires,
        )

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

        Of what others of the account send in that moment, the broker may lose some and take some
        twice; publishers repeat what was not acknowledged, and the gateway knows repetitions. In
        the account BUS, pull requests that are out are lost; workers notice and ask again.

        Args:
            connection: of the warden.
            public_key: of the user.
            role: the role that its tokens name.
            now: nanoseconds since 1970.
            until: when all its tokens have expired, likewise; then it need not be kept. None
                keeps it for ever.

        Raises:
            InvalidInput: no public key of a user; or so many are revoked that the server would
                not read the account any more, and nothing was changed.
            Unavailable: the server did not answer; repeat it.
            ApiError: the server refused it.
        """
        Key.USER.check(public_key)
        name, second = accounts.account(role), now // _SECOND
        async with self._locked():
            state = self._state()
            before = state.accounts[name]
            revoked = {
                key: entry
                for key, entry in before.revoked.items()
                if not entry.until or entry.until > second
            }
            revoked[public_key] = _Revoked(
                max(second, revoked[public_key].at if public_key in revoked else 0),
                0 if until is None else -(-until // _SECOND),
            )
            state = _changed(state, name, before.again(second, revoked))
            account = self._account(name, state)  # before it is written: it may be too long
            self._save(state, replace=True)
            await _push(connection, account)

    def is_revoked(self, public_key: str, role: Role) -> bool:
        """Whether what was issued to a key was taken back, at some time."""
        return self.revoked_at(public_key, role) is not None

    def revoked_at(self, public_key: str, role: Role) -> int | None:
        """In which second (since 1970) what was issued to a key was taken back, if it was."""
        found = self._state().accounts[accounts.account(role)].revoked.get(public_key)
        return found.at if found else None

    def reinstate(self, public_key: str, role: Role) -> None:
        """Forget that a key was taken back, after a later token was issued to it.

        Servers that were told go on refusing what is older.
        """
        name = accounts.account(role)
        with (self._folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = self._state()
            before = state.accounts[name]
            revoked = {key: entry for key, entry in before.revoked.items() if key != public_key}
            issued = msgspec.structs.replace(before, revoked=revoked)
            self._save(_changed(state, name, issued), replace=True)

    def _account(self, name: str, state: _State) -> str:
        """The token of an account: what `accounts.configuration` says of it, translated."""
        everybody = [Identity(_STAND_IN, role, role.value) for role in Role]
        text = accounts.configuration(
            everybody, store=_NOWHERE, store_bytes=0, partition=self._partition, together=True
        )
        static: dict[str, Any] = json.loads(text)["accounts"][name]
        unknown = static.keys() - {"users", "exports", "imports", "jetstream"}
        assert not unknown, f"{unknown} of the account {name} is not translated"
        ours = self._limits if name == "AGENTS" else AccountLimits(self._limits.store_bytes)
        streams, issued = static.get("jetstream") == "enabled", state.accounts[name]
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
                disk_storage=ours.store_bytes if streams else 0,
                streams=jwt.UNLIMITED if streams else 0,
                consumer=jwt.UNLIMITED if streams else 0,
            ),
            signing_keys=tuple(
                jwt.Scope(
                    key=self._public(_signs(user["nkey"])),
                    role=user["nkey"],
                    template=_template(user["permissions"]),
                )
                for user in static["users"]
            ),
            revocations={key: r.at for key, r in issued.revoked.items()},
            default_permissions=jwt.Permissions(pub=_NOTHING, sub=_NOTHING),
        )
        return self._sign(name, body, "operator-signing", issued.at)

    def _import(self, name: str, static: dict[str, Any], state: _State) -> jwt.Import:
        kind = _kind(static)
        exporter, subject = static[kind]["account"], static[kind]["subject"]
        leave = jwt.Activation(subject=subject, kind=kind)
        # Always the same token, so that a revocation changes nothing about what is imported.
        token = self._sign(name, leave, exporter, state.created)
        return jwt.Import(
            subject=subject,
            type=kind,
            account=self._public(exporter),
            token=token,
            # What subscribes in the moment in which the server swaps imports gets none, and keeps
            # none. Only where an import has changed does the server look at all subscriptions
            # again; so one does, each time. No message here asks to be traced.
            allow_trace=kind == "stream" and state.accounts[name].serial % 2 == 1,
        )

    def _sign(
        self, about: str, body: jwt.Operator | jwt.Account | jwt.Activation, by: str, second: int
    ) -> str:
        return jwt.encode(
            body,
            subject=self._public(about),
            seed=self._seed(by),
            now=second * _SECOND,
            name=f"tidegate {about}",
        )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.nk"

    @property
    def _state_path(self) -> Path:
        return self._folder / "state.json"

    def _public(self, name: str) -> str:
        return _kind_of(name).public(self._seed(name))

    def _seed(self, name: str) -> str:
        path = self._path(name)
        try:
            if path.stat().st_mode & 0o077:
                raise InvalidInput(f"{path}: others may read this seed; run chmod 600 {path}")
            return path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path}: no seed: {error}") from None

    def _state(self) -> _State:
        try:
            return msgspec.json.decode(self._state_path.read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidInput(f"{self._state_path}: unreadable: {error}") from error

    def _save(self, state: _State, *, replace: bool) -> None:
        write_secret(self._state_path, msgspec.json.encode(state).decode(), replace=replace)

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        """One at a time, of all processes: an older token may not overtake a newer one."""
        with (self._folder / "lock").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_SECONDS)
            yield


def account_key(folder: Path, name: str) -> str:
    """The public key of an account of the authority in a folder, by which the server names it.

    Raises:
        InvalidInput: there is no such key.
    """
    path = folder / f"{name}.nk"
    try:
        return Key.ACCOUNT.public(path.read_text("ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: no seed: {error}") from None


def _first(second: int) -> _State:
    return _State(second, {name: _Issued(second) for name in _ACCOUNTS})


def _changed(state: _State, name: str, issued: _Issued) -> _State:
    return _State(state.created, {**state.accounts, name: issued})


async def _push(connection: Connection, account: str) -> None:
    await connection.api(_PUSH, msgspec.Raw(account.encode()))  # as it is, not as a JSON string


def _signs(role: str) -> str:
    return f"signs-{role}"


def _kind_of(name: str) -> Key:
    return Key.OPERATOR if name.startswith("operator") else Key.ACCOUNT


def _template(static: dict[str, Any]) -> jwt.Template:
    """The permissions of the stand-in, as those of whoever has the tags."""
    return jwt.Template(pub=_permission(static["publish"]), sub=_permission(static["subscribe"]))


def _permission(static: dict[str, list[str]]) -> jwt.Permission:
    return jwt.Permission(
        allow=tuple(map(_with_tags, static.get("allow", ()))),
        deny=tuple(map(_with_tags, static.get("deny", ()))),
    )


def _with_tags(subject: str) -> str:
    for name, tag in _TAGS.items():
        subject = subject.replace(name, tag)
    return subject


def _kind(static: dict[str, Any]) -> Literal["stream", "service"]:
    return "service" if "service" in static else "stream"


def _export(static: dict[str, Any]) -> jwt.Export:
    return jwt.Export(
        subject=static[_kind(static)],
        type=_kind(static),
        token_req="accounts" in static,
        response_type="Stream" if static.get("response_type") == "stream" else "",
        response_threshold=int(parse_duration(static.get("threshold", "0s")) * _SECOND),
    )
