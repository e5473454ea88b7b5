"""What the edge knows of messages before the index does."""

from __future__ import annotations

from tidegate.edge.messages import Heard
from tidegate_schemas.envelope import Envelope

from .kit import WEB


def test_a_sender_of_one_id_takes_no_more_room_than_others() -> None:
    """Of its sources the last ones are known; without one, some of them is found."""
    heard = Heard()
    for number in range(1000):
        heard.add(WEB, Envelope.new("a.b", id="same", source=f"s{number}"))

    assert heard.source(WEB, "same", "s999") == "s999"
    assert heard.source(WEB, "same", "s0") is None
    assert heard.source(WEB, "same", None) is not None
