"""Headers of messages, held against those that nats-py reads."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from tidegate_bus.message import Message

names = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters=":"), min_size=1)
values = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=20)


def of_nats_py(head: bytes) -> dict[str, str]:
    """The headers as nats-py reads them."""
    found = asyncio.run(Client()._process_headers(head))  # pyright: ignore[reportPrivateUsage]
    return {str(getattr(name, "value", name)): value for name, value in (found or {}).items()}


@given(st.dictionaries(names, values, max_size=5))
def test_headers_are_read_as_nats_py_reads_them(headers: dict[str, str]) -> None:
    """Whatever their names and values are."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"NATS/1.0\r\n{lines}\r\n".encode()

    assert Message("s", "", b"", head).headers == of_nats_py(head)


@pytest.mark.parametrize(
    "head",
    [
        b"NATS/1.0 404 Message Not Found\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 16\r\nNats-Last-Stream: 24\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: 4\r\nNats-Sequence: 5\r\n\r\n",
        b"NATS/1.0\r\nA:b\r\nC:\td \r\nno colon\r\n\r\n",
    ],
)
def test_a_status_is_read_as_nats_py_reads_it(head: bytes) -> None:
    """With or without words, and with headers after it; of two the last."""
    assert Message("s", "", b"", head).headers == of_nats_py(head)


def test_a_message_without_headers_has_none() -> None:
    """And no status either."""
    assert Message("s", "", b"x").headers == {}
