"""Whether the HTTP faces of a stack can use what their settings name.

Said before anything starts: what is found once a face runs is found after the rest of the stack.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping

from tidegate_schemas.errors import InvalidInput, Problem

from .project import SETTINGS, Project, placed

FACES = ("edge", "console")
"""Processes that speak HTTP."""

_BACKLOG = 512


def check_faces(
    project: Project, faces: Collection[str], environ: Mapping[str, str] = os.environ
) -> None:
    """Check what settings say of these faces, and what they name: files, secrets, an address.

    Args:
        project: whose settings.
        faces: some of `FACES`.
        environ: where the face will look for secrets.

    Raises:
        InvalidDocument: with every fault, its line and its field.
    """
    faults = [*edge_faults(project, environ)] if "edge" in faces else []
    faults += console_faults(project) if "console" in faces else []
    for face in faces:
        own = project.settings.edge if face == "edge" else project.settings.console
        try:
            listening(own.host, own.port).close()
        except InvalidInput as error:
            faults.append(Problem(0, f"{face}.port" if own.port else f"{face}.host", str(error)))
    if faults:
        raise placed(project.root / SETTINGS, faults)


def edge_faults(project: Project, environ: Mapping[str, str] | None) -> Iterator[Problem]:
    """What is wrong with what the edge is given.

    Args:
        project: whose edge.
        environ: where it looks for secrets; None where that is not known.
    """
    settings = project.settings.edge
    if settings.webhooks:  # what it takes is imported only where it is used
        from .edge.rules import check
        from .edge.webhooks import Secret

        for name, own in settings.webhooks.items():
            yield from check(name, own)
            if own.secret_env is not None and environ is None:
                continue
            try:
                Secret(own, project.root, environ or {}).lines()
            except InvalidInput as error:
                field = "secret_file" if own.secret_env is None else "secret_env"
                yield Problem(0, f"edge.webhooks.{name}.{field}", str(error))
    if settings.tls:
        from .edge.tls import server_context

        try:
            server_context(project)
        except InvalidInput as error:
            yield Problem(0, "edge.tls", str(error))
    if settings.oidc and (keys := settings.oidc.keys_file(project.root)):
        from .edge.oidc import check_keys

        try:
            check_keys(keys)
        except InvalidInput as error:
            yield Problem(0, "edge.oidc.jwks", str(error))


def console_faults(project: Project) -> Iterator[Problem]:
    """What is wrong with what the console is given."""
    tls = project.settings.console.tls
    if tls:
        from .edge.tls import presenting

        try:
            presenting(project.root / tls.certificate, project.root / tls.key)
        except InvalidInput as error:
            yield Problem(0, "console.tls", str(error))


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        InvalidInput: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        host.encode("idna")  # `bind` would raise a TypeError
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        why = error.strerror
    except UnicodeError:
        why = "this is no name of a host"
    raise InvalidInput(f"cannot listen on {host}:{port}: {why}")
