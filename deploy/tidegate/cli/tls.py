"""`tidegate tls`: make certificates for development, and look at those there are."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.project import open_project
from tidegate_bus.broker import authority

from .console import JsonOption, ProjectOption, StateOption, clean, group, out, print_json, table

app = group("Make the certificates of the broker and its clients, and look at them.")


@app.command()
def create(
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or IP address by which clients call the broker; localhost, 127.0.0.1, ::1 "
            "and the name of this machine are there always. May be given several times."
        ),
    ] = None,
    renew: Annotated[
        bool,
        typer.Option(
            "--renew", help="Make new certificates and keys, of the authority that is there."
        ),
    ] = False,
    project: ProjectOption = None,
    state: StateOption = None,
) -> None:
    """Make an authority and certificates, for development.

    The authority lasts a year, certificates 90 days. In production, put those of your own
    authority into the folder, under the same names.
    """
    here = open_project(project, state)
    for path in authority.create(here.tls_folder, host or (), renew=renew):
        out.print(f"  {clean(str(path))}", soft_wrap=True, highlight=False)
    server = authority.examine(here.tls_folder)[1]
    out.print(f"\nThe broker's certificate is for {clean(', '.join(server.names))}.")
    if here.settings.server.tls == "off":
        out.print("Next: `server: {tls: mutual}` in tidegate.yaml, and start the stack again.")
    elif renew:
        out.print("The broker takes it when it is started again.")


@app.command()
def show(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show whose the certificates are, and until when.

    Exit status 1 when one has expired.
    """
    here = open_project(project, state)
    found = authority.examine(here.tls_folder)
    if as_json:
        print_json(
            [
                {
                    "file": str(certificate.path),
                    "subject": certificate.subject,
                    "issuer": certificate.issuer,
                    "names": certificate.names,
                    "not_before": certificate.begins.isoformat(),
                    "not_after": certificate.ends.isoformat(),
                    "days_left": certificate.days_left(),
                    "sha256": certificate.fingerprint,
                }
                for certificate in found
            ]
        )
    else:
        columns = ("file", "subject", "names", "until (UTC)", "days left")
        rows = (
            (
                clean(certificate.path.name),
                clean(certificate.subject),
                clean("\n".join(certificate.names)) or None,
                f"{certificate.ends:%Y-%m-%d %H:%M}",
                _days(certificate.days_left()),
            )
            for certificate in found
        )
        out.print(f"{clean(str(here.tls_folder))}: TLS is {here.settings.server.tls}")
        out.print(table("", columns, rows))
    if any(certificate.days_left() < 0 for certificate in found):
        raise typer.Exit(1)


def _days(left: int) -> str:
    if left < 0:
        return "[red]expired[/red]"
    return f"[yellow]{left}[/yellow]" if left < authority.SOON_DAYS else str(left)
