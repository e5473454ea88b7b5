"""JSON Lines of a pipe or a file that has an end, as `tidegate publish -` takes them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncGenerator

import msgspec

from tidegate_schemas.envelope import decode
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput

from .cursor import Cursor, event_id
from .lines import LONGEST, Line, Lines
from .pump import Item
from .shape import Shape

_CHUNK = 2**16


class Taken(msgspec.Struct, frozen=True):
    """How much of an input is settled.

    Attributes:
        epoch: part of the ids of its events.
        lines: how many.
        chain: SHA-256 in hex over that of the lines before and the last one.
    """

    epoch: str
    lines: int = 0
    chain: str = ""


class Pipe:
    """An input whose lines are events: CloudEvents, or with a shape the data of events.

    Args:
        file: descriptor to read from. No more is read than is taken from here.
        shape: of the events whose data the lines are; None where they are whole events.
        kept: where it is kept how much is settled, so that the same input can be given again.
    """

    def __init__(self, file: int, shape: Shape | None, kept: Cursor[Taken] | None) -> None:
        self._file = file
        self._shape = shape
        self._kept = kept
        self._taken = (kept.read() if kept else None) or Taken(secrets.token_hex(16))
        if kept:
            self.save()  # before any of its lines is published
        self.skipped = self._taken.lines
        """Lines that were settled before."""

    async def items(self) -> AsyncGenerator[Item[Taken]]:
        """The events, until the input ends.

        Raises:
            InvalidInput: it does not begin with the lines that were settled.
        """
        number, chain, before = 0, "", self._taken
        async for line in self._lines():
            number += 1
            if self._kept:
                chain = hashlib.sha256(chain.encode() + (line.text or b"\0")).hexdigest()
            taken = msgspec.structs.replace(before, lines=number, chain=chain)
            if number <= before.lines:
                if number == before.lines and chain != before.chain:
                    break
            elif item := self._item(taken, line):
                yield item
        if number <= before.lines and chain != before.chain:
            raise InvalidInput(
                f"this input does not begin with the {before.lines} lines that are published "
                f"already, as {self._kept.path if self._kept else ''} says"
            )

    def settled(self, position: Taken) -> None:
        """Everything up to there has its verdict."""
        self._taken = position

    def save(self) -> None:
        """Keep what is settled; when this returns it is on the disk."""
        if self._kept:
            self._kept.save(self._taken)

    def _item(self, taken: Taken, line: Line) -> Item[Taken] | None:
        if line.text is None:
            return Item(taken, None, f"longer than {LONGEST} bytes")
        if not line.text.strip():
            return None
        if self._shape:
            id = event_id(taken.epoch, taken.lines)
            return self._shape.item(taken, id, msgspec.Raw(line.text))
        try:
            return Item(taken, decode(line.text, limit=None))  # how large, the gateway knows
        except InvalidEnvelope as error:
            return Item(taken, None, str(error))

    async def _lines(self) -> AsyncGenerator[Line]:
        lines = Lines()
        while data := await self._read():
            for line in lines.feed(data):
                yield line
        if last := lines.rest():
            yield last

    async def _read(self) -> bytes:
        # A regular file never lets anybody wait, and cannot be waited for.
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            await _readable(self._file)
        return os.read(self._file, _CHUNK)


async def _readable(file: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(file, ready.set)
    except OSError:  # e.g. /dev/null, which is always ready
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(file)
