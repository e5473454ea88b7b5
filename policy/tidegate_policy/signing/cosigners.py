"""Asking witnesses to cosign a checkpoint (C2SP tlog-witness, the client's side).

Blocking, over HTTP, with the standard library. A witness that is away costs its time once, and is
asked again later: each is left alone for longer the longer it stays away.
"""

from __future__ import annotations

import base64
import http.client
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signature, Verifier
from tidegate_schemas.errors import Unavailable, VerificationError

Proof = Callable[[int], list[bytes]]
"""The consistency proof from a smaller size to that of the checkpoint."""

_ANSWER_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 60.0
_ANSWER_BYTES = 64 * 1024
_TRIES = 3
_SIZE_TYPE = "text/x.tlog.size"


class Disagreement(VerificationError):
    """A witness has seen another history than ours, or more of it."""


class Cosigner:
    """One witness.

    Args:
        key: its public one.
        url: where it takes checkpoints; `add-checkpoint` comes after it.
    """

    def __init__(self, key: Verifier, url: str) -> None:
        self.key = key
        parts = urlsplit(url)
        assert parts.hostname, "the settings have checked it"
        secure = parts.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._link = connect(parts.hostname, parts.port, timeout=_ANSWER_SECONDS)
        self._path = f"{parts.path.rstrip('/')}/add-checkpoint"
        self._size = 0  # of the checkpoint that it has seen last, as far as we know

    def ask(self, note: Note, checkpoint: Checkpoint, proof: Proof) -> Signature:
        """Its cosignature.

        Raises:
            Disagreement: it has seen another history, or more.
            Unavailable: it does not answer, or does not know the log.
        """
        for _ in range(_TRIES):
            old = self._size if self._size <= checkpoint.size else 0
            status, kind, body = self._post(_request(old, proof(old), note))
            match status:
                case 200:
                    self._size = checkpoint.size
                    return self._cosignature(note, body)
                case 409 if kind == _SIZE_TYPE and body.strip().isdigit() and len(body) < 21:
                    self._size = int(body)
                    if self._size > checkpoint.size:
                        raise Disagreement(
                            f"{self.key.name} has seen {self._size} records; "
                            f"there are {checkpoint.size}"
                        )
                    if self._size == old:
                        raise Disagreement(
                            f"{self.key.name} has seen other {old} records than these"
                        )
                case 409 | 422:
                    raise Disagreement(
                        f"{self.key.name} has seen another history ({status}) "
                        f"when it had {old} records"
                    )
                case _:
                    said = body[:200].decode("utf-8", "replace").strip()
                    raise Unavailable(f"{self.key.name} answers {status}: {said}")
        raise Unavailable(f"{self.key.name}: somebody else submits checkpoints too")

    def close(self) -> None:
        """Hang up; whoever asks later connects again."""
        self._link.close()

    def _cosignature(self, note: Note, body: bytes) -> Signature:
        try:
            answer = Note.parse(note.text.encode() + b"\n" + body)
            if self.key.check(answer) is not None:
                return next(
                    s
                    for s in answer.signatures
                    if (s.name, s.key_id) == (self.key.name, self.key.key_id)
                )
        except VerificationError as error:
            raise Unavailable(f"{self.key.name}: {error}") from error
        raise Unavailable(f"{self.key.name} signs with another key")

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        for last in (False, True):
            fresh = self._link.sock is None
            try:
                self._link.request("POST", self._path, body, {"Content-Type": "text/plain"})
                answer = self._link.getresponse()
                found = answer.read(_ANSWER_BYTES)
                if answer.read(1):
                    raise http.client.HTTPException("its answer is too long")
                kind = answer.headers.get_content_type()
            except (OSError, http.client.HTTPException) as error:
                self._link.close()
                if fresh or last:  # what was kept open may have been closed meanwhile
                    raise Unavailable(f"{self.key.name} does not answer: {error!r}") from error
            else:
                return answer.status, kind, found
        raise AssertionError("unreachable")


@dataclass(slots=True)
class _State:
    cosigner: Cosigner
    thread: threading.Thread | None = None
    signature: Signature | None = None
    error: str = ""
    disagrees: str = ""
    pause: float = 0.0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of asking.

    Attributes:
        signatures: of those that cosigned.
        missing: why the others did not, by name.
        disagree: what those say that have seen something else, by name.
    """

    signatures: list[Signature] = field(default_factory=list[Signature])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    disagree: dict[str, str] = field(default_factory=dict[str, str])


class Cosigners:
    """All witnesses, asked at once; who does not answer in time is not waited for.

    Args:
        witnesses: key and address of each.
        clock: seconds that never go back.
    """

    def __init__(
        self, witnesses: Sequence[tuple[Verifier, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._states = [_State(Cosigner(key, url)) for key, url in witnesses]
        self._clock = clock

    def ready(self) -> list[Verifier]:
        """Keys of those that may be asked now."""
        return [
            state.cosigner.key
            for state in self._states
            if not _busy(state) and self._clock() >= state.not_before
        ]

    def ask(self, note: Note, checkpoint: Checkpoint, proof: Proof) -> Answers:
        """Ask for cosignatures; at most two seconds."""
        begun = [state for state in self._states if self._begin(state, note, checkpoint, proof)]
        end = self._clock() + _ANSWER_SECONDS
        for state in begun:
            assert state.thread
            state.thread.join(max(0.0, end - self._clock()))
        answers = Answers()
        for state in self._states:
            name = state.cosigner.key.name
            if state in begun and state.signature and not (state.thread and _busy(state)):
                answers.signatures.append(state.signature)
            elif state.disagrees:
                answers.disagree[name] = state.disagrees
            else:
                answers.missing[name] = state.error or "does not answer in time"
        return answers

    def close(self) -> None:
        """Hang up."""
        for state in self._states:
            if state.thread:
                state.thread.join(_ANSWER_SECONDS)
            state.cosigner.close()

    def _begin(self, state: _State, note: Note, checkpoint: Checkpoint, proof: Proof) -> bool:
        if _busy(state) or self._clock() < state.not_before:
            return False

        def work() -> None:
            state.signature = None
            try:
                state.signature = state.cosigner.ask(note, checkpoint, proof)
                state.error = state.disagrees = ""
                state.pause = 0.0
                return
            except Disagreement as error:
                state.disagrees, state.error = str(error), ""
            except (Unavailable, VerificationError) as error:
                state.error, state.disagrees = str(error), ""
            longer = max(2 * state.pause, _FIRST_PAUSE_SECONDS)
            state.pause = min(longer, _LONGEST_PAUSE_SECONDS)
            state.not_before = self._clock() + state.pause

        # Of its own and a daemon: nobody waits for a witness, not even at the end of the process.
        state.thread = threading.Thread(target=work, daemon=True)
        state.thread.start()
        return True


def _busy(state: _State) -> bool:
    return state.thread is not None and state.thread.is_alive()


def _request(old: int, proof: list[bytes], note: Note) -> bytes:
    lines = [f"old {old}", *(base64.b64encode(one).decode() for one in proof), "", ""]
    return "\n".join(lines).encode() + note.encode()
