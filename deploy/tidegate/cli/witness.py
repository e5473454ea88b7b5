"""`tidegate witness`."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated

import typer

from tidegate_evidence.note import Algorithm, Verifier
from tidegate_schemas.errors import InvalidInput, VerificationError

from .console import clean, out

_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]]+)):(\d{1,5})")


def witness(
    log: Annotated[
        list[str],
        typer.Option(
            metavar="VKEY",
            help="Key of the writer of a log (`tidegate evidence keys`); may be repeated.",
        ),
    ],
    state: Annotated[
        Path, typer.Option(help="Folder of its key, and of what it has seen; made if need be.")
    ],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to take checkpoints; port 0: any.")
    ] = "127.0.0.1:8090",
    name: Annotated[
        str | None,
        typer.Option(help="Name of its key; by default `witness.` and the name of this machine."),
    ] = None,
) -> None:
    """Cosign the checkpoints of logs, as another party than theirs (C2SP tlog-witness).

    It sees how long a log is and the root of its tree, and no record. It never cosigns two
    histories of one log. Put a proxy with TLS before it where others can listen.
    """
    from tidegate.witness_server import own_key, serve

    found = _ADDRESS.fullmatch(listen)
    if not found or int(found[3]) > 65535:
        raise InvalidInput(f"{listen!r} is no address; write HOST:PORT")
    try:
        keys = [Verifier.parse(text) for text in log]
        signer = own_key(state, name or f"witness.{socket.gethostname()}")
    except VerificationError as error:
        raise InvalidInput(str(error)) from error
    for key in keys:
        if key.algorithm is not Algorithm.NOTE:
            raise InvalidInput(f"{key.name}: not the key of a log, which signs checkpoints")

    def ready(url: str) -> None:
        out.print(f"key  {clean(str(signer.verifier))}", soft_wrap=True, highlight=False)
        out.print(f"url  {clean(url)}", soft_wrap=True, highlight=False)
        out.file.flush()

    serve(signer, keys, state, found[1] or found[2], int(found[3]), ready)
