"""A folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from tidegate_schemas.errors import InvalidInput


@contextlib.contextmanager
def folder_in_making(final: Path) -> Generator[Path]:
    """A new folder beside `final`, for what is to be there.

    Whoever has filled it gives it its name (`release`); if nobody has by the end, it is removed.

    Raises:
        InvalidInput: one of the two is there already.
        OSError: the folder, or a file in it, cannot be written; the error names the folder.
    """
    part = final.with_name(final.name + ".part")
    if final.exists() or final.is_symlink():
        raise InvalidInput(f"{final} is there already; an export makes a new folder")
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        raise InvalidInput(
            f"{part} is there already: another export is writing it, or one was cut off; "
            "if none is, remove it"
        ) from None
    try:
        yield part
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(final)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def release(part: Path, final: Path) -> None:
    """Give a folder its name.

    Raises:
        OSError: it cannot be had.
    """
    part.rename(final)
