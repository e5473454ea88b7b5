"""The key service of a sandbox: agents can seal what they say, with keys that are kept nowhere.

Nobody opens anything here: messages with personal data are not delivered again.
"""

from __future__ import annotations

import contextlib
import secrets
import time

import msgspec
from nats.aio.msg import Msg

from tidegate_bus.connection import Connection
from tidegate_schemas import subjects
from tidegate_schemas.custody import Answer, Seal, SealKey, decode_ask
from tidegate_schemas.errors import InvalidEnvelope, TidegateError, Unopened
from tidegate_schemas.personal import KEY_BYTES, SALT_BYTES, KeyId, key_id, month

_PSEUDONYM_BYTES = 16


class Keys:
    """Answers in the gateway's place, from `start` to the end of the connection."""

    def __init__(self, gateway: Connection) -> None:
        self._gateway = gateway

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            Unavailable: the connection is closed.
        """
        await self._gateway.listen(subjects.VAULT_SUBJECTS, self._asked)

    async def _asked(self, message: Msg) -> None:
        if not message.reply:  # an answer that was aimed here
            return
        try:
            ask = decode_ask(message.data)
            if not isinstance(ask, Seal):
                raise Unopened(Unopened.FORBIDDEN, "nothing is opened in a sandbox")
            answer = Answer(seal=_key(ask))
        except (InvalidEnvelope, Unopened) as error:
            answer = Answer(why=Unopened.FORBIDDEN, detail=str(error))
        with contextlib.suppress(TidegateError):  # it asks again
            await self._gateway.publish(message.reply, msgspec.json.encode(answer))


def _key(ask: Seal) -> SealKey:
    now = month(time.time_ns())
    ids = [
        name if key_id(name) else str(KeyId(secrets.token_hex(_PSEUDONYM_BYTES), now))
        for name in ask.subjects
    ]
    salt, key = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(KEY_BYTES)
    return SealKey(",".join(ids), salt, key)
