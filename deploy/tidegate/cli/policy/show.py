"""`tidegate policy show`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tidegate.cli.console import JsonOption, ProjectOption, clean, out, print_json, table
from tidegate.policies import demands
from tidegate_policy.bundle import load_bundle
from tidegate_schemas.errors import InvalidInput

from . import FolderArgument, bundle_folder


def show(
    folder: FolderArgument = None,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the Cedar schema, for editors and Cedar's tools."),
    ] = False,
    digest: Annotated[bool, typer.Option("--digest", help="Print the digest only.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the rules of a policy bundle, and what they oblige to."""
    if schema + digest + as_json > 1:
        raise InvalidInput("one of --schema, --digest and --json")
    where = bundle_folder(folder, project)
    bundle = load_bundle(where)
    rules = list(bundle.rules.values())
    if schema:
        sys.stdout.write(bundle.files["schema.cedarschema"])
    elif digest:
        out.print(bundle.digest, highlight=False)
    elif as_json:
        print_json(
            {
                "digest": bundle.digest,
                "files": sorted(bundle.files),
                "rules": [
                    {
                        "id": rule.id,
                        "effect": rule.effect,
                        "obligations": rule.obligations.texts(),
                        "shadow": rule.shadow,
                        "learn": rule.learn,
                        "file": rule.file,
                        "line": rule.line,
                    }
                    for rule in rules
                ],
                "facts": {
                    f"{kind} {to}": {
                        name: {"type": fact.type, "at": fact.at, "required": fact.required}
                        for name, fact in declared.items()
                    }
                    for (kind, to), declared in bundle.facts.declared.items()
                },
            }
        )
    else:
        rows = (
            (
                clean(rule.id),
                rule.effect,
                clean("\n".join(demands(rule))) or None,
                clean(f"{rule.file}:{rule.line}"),
            )
            for rule in rules
        )
        out.print(f"{clean(str(where))}: {len(rules)} rules, {bundle.digest}", soft_wrap=True)
        out.print(table("", ("rule", "effect", "obliges to", "at"), rows))
