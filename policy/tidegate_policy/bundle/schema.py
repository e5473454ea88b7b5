"""The Cedar schema that follows from the declared facts.

Each kind of message is a group of actions: one `other`, and one for each destination with declared
facts. The groups themselves apply to nothing, so the engine refuses `action == Action::"task"`,
which a rule for all tasks would be mistaken for.
"""

from __future__ import annotations

from importlib.resources import files

from tidegate_policy.engine import Attribute, Contexts, Record, Scalar
from tidegate_schemas.subjects import Kind

from .facts import KINDS, Facts

BASE = files(__package__ or "").joinpath("base.cedarschema").read_text("utf-8")
NAME = "schema.cedarschema"
"""Of its file in a bundle."""

RESOURCES = {
    Kind.TASK: "Capability",
    Kind.EVENT: "Topic",
    Kind.RESULT: "Agent",
    Kind.CONTROL: "Command",
}
"""What a message of each kind goes to."""

_CONTEXT = (
    "to: String",
    "type: String",
    "in_run: Bool",
    "delegated: Bool",
    "blueprint: String",
    "dataclassification?: String",
)
_TYPES = {"Decimal": "__cedar::decimal"}
_SCALARS = {
    "Bool": Scalar.BOOL,
    "Long": Scalar.LONG,
    "String": Scalar.STRING,
    "Set<String>": Scalar.STRINGS,
    "Decimal": Scalar.DECIMAL,
}


def schema_text(facts: Facts) -> str:
    """The schema of a bundle with these facts, as Cedar writes schemas."""
    parts = [BASE, *(_action(f"{kind}:other", kind, {}) for kind in KINDS)]
    for (kind, to), declared in sorted(facts.declared.items()):
        data = {
            f"{name}{'' if fact.required else '?'}": _TYPES.get(fact.type, fact.type)
            for name, fact in declared.items()
        }
        parts.append(_action(facts.action(kind, to), kind, data))
    return "\n".join(parts)


def contexts(facts: Facts) -> Contexts:
    """The types of the contexts of all actions, as the engine wants them."""
    base = dict(map(_attribute, _CONTEXT))
    found = {f"{kind}:other": Record(base) for kind in KINDS}
    for (kind, to), declared in facts.declared.items():
        data = Record(
            {n: Attribute(_SCALARS[fact.type], fact.required) for n, fact in declared.items()}
        )
        found[facts.action(kind, to)] = Record({**base, "data": Attribute(data)})
    return found


def _attribute(declared: str) -> tuple[str, Attribute]:
    name, type_ = declared.split(": ")
    return name.removesuffix("?"), Attribute(_SCALARS[type_], not name.endswith("?"))


def _action(name: str, kind: Kind, data: dict[str, str]) -> str:
    lines = [f"    {field}," for field in _CONTEXT]
    if data:
        lines += ["    data: {", *(f"      {n}: {type}," for n, type in data.items()), "    },"]
    body = "\n".join(lines)
    return (
        f'action "{name}" in [{kind}] appliesTo {{\n'
        f"  principal: Agent,\n  resource: {RESOURCES[kind]},\n"
        f"  context: {{\n{body}\n  }},\n}};\n"
    )
