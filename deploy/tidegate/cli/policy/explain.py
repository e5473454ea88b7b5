"""`tidegate policy explain`: the rules that decided about one message."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from tidegate.audit import Audit
from tidegate.cli.console import (
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    out,
    print_json,
    verdict,
)
from tidegate_policy.bundle.values import written
from tidegate_policy.replay import Explanation
from tidegate_policy.replay import explain as explain_record
from tidegate_policy.replay.explain import Told


def explain(
    seq: Annotated[int, typer.Argument(min=1, help="Ledger sequence.")],
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which rules decided about a message, as they were in force then.

    With their text and place, what they oblige to, and what rules with @shadow would have done.
    """
    with Audit(project, state) as audit:
        record = audit.record(seq)
        shelf = audit.shelf()
        _, in_force = shelf.in_force(seq)
        found = explain_record(record, shelf.bundle(record.why.bundle), in_force)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        _show(found)


def _show(found: Explanation) -> None:
    def line(name: str, text: str) -> None:
        out.print(f"[bright_black]{name:<12}[/]{text}", highlight=False, soft_wrap=True)

    line(f"record {found.seq}", f"{found.time[:19].replace('T', ' ')} UTC")
    whom = f", on behalf of {clean(', '.join(found.on_behalf_of))}" if found.on_behalf_of else ""
    line("message", f"{found.kind} of {clean(found.by)} to {clean(found.to)}{whom}")
    if whom:
        line("", "the rules must permit it to each of them")
    line("verdict", f"{verdict(found.verdict)}, {found.reason}")
    if found.ground:
        line("", found.ground)
    if found.detail:
        line("", clean(found.detail))
    since = f"since record {found.in_force}" if found.in_force else "from the beginning"
    line("bundle", f"{found.bundle}, in force {since}")
    for name, value in found.facts.items():
        line("fact", f"{name} = {clean(written(value))}")
    for obligation in found.obligations:
        line("obliges to", clean(obligation.partition("#")[0]))
    for rule in found.rules:
        _show_rule("decided", rule)
    if found.shadow:
        out.print()
        line("shadow", f"with the rules below it would be: {verdict(found.shadow)}")
    for rule, counts in found.shadow_rules:
        _show_rule("would decide" if counts else "no matter", rule, dim=not counts)


def _show_rule(word: str, rule: Told, *, dim: bool = False) -> None:
    out.print()
    place = f"  [bright_black]{clean(rule.place)}[/]" if rule.place else ""
    out.print(f"{word}: [bold]{clean(rule.id)}[/] ({rule.effect}){place}", highlight=False)
    style = "bright_black" if dim else None
    out.print(
        "\n".join(f"  {clean(text)}" for text in rule.text.splitlines()),
        highlight=False,
        style=style,
        soft_wrap=True,
    )
