"""The attacks that mean something in every layout, by their names."""

from __future__ import annotations

from .attack import Attack
from .attacks_connections import CONNECTIONS
from .attacks_identity import FORBIDDEN
from .attacks_keys import KEYS
from .attacks_messages import MESSAGES
from .attacks_permissions import PUBLISHING, SUBSCRIBING
from .attacks_replies import ANSWERS
from .attacks_wildcards import WILDCARDS
from .attacks_work import WORK

ATTACKS: list[Attack] = [
    *(*ANSWERS, *CONNECTIONS, *FORBIDDEN, *KEYS, *MESSAGES, *PUBLISHING, *SUBSCRIBING),
    *(*WILDCARDS, *WORK),
]
BY_NAME = {attack.name: attack for attack in ATTACKS}
assert len(BY_NAME) == len(ATTACKS), "two attacks of one name"
