"""What the edge remembers of what it accepted: enough to be asked at once, and bounded."""

from __future__ import annotations

from tidegate.edge.messages import Heard
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.subjects import Principal

WHO = Principal("outside", "website")


def test_a_sender_of_one_id_takes_no_more_room_than_others() -> None:
    """Of the sources that gave one id the newest few are known, and where their records are."""
    heard = Heard()
    for number in range(100):
        envelope = Envelope.new("thing.happened", id="1", source=f"urn:s{number}")
        heard.add(WHO, envelope, number or None)

    assert heard.find(WHO, "1", "urn:s0") is None
    assert heard.find(WHO, "1", "urn:s99") == ("urn:s99", 99)
    assert heard.find(WHO, "1", None) is not None
    assert heard.find(Principal("outside", "other"), "1", None) is None
