"""The agent that is measured: says when it was reached."""

from __future__ import annotations

import time

import msgspec

from tidegate import Agent

agent = Agent()


class Ping(msgspec.Struct):
    """What it is sent; the payload gives it its size."""

    payload: str


class Pong(msgspec.Struct):
    """When the handler began, ns since 1970."""

    reached: int


@agent.task("bench.echo")
async def echo(ping: Ping) -> Pong:
    """Answer at once."""
    return Pong(time.time_ns())
