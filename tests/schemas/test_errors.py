"""The error tree: as it is drawn, so it is."""

import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from tidegate_schemas import errors
from tidegate_schemas.errors import TidegateError

DRAWING = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
LINE = re.compile(r"^ {4}(?P<stem>(?:│   |    )*)[├└]── (?P<name>\w+)\s+(?P<words>.+)$")

CLASSES: dict[str, type[BaseException]] = {
    name: value
    for name, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, BaseException) and value.__module__ == errors.__name__
}


def drawn() -> dict[str, str]:
    """Each class of the drawing with the class it hangs on."""
    parents: dict[str, str] = {}
    path = ["TidegateError"]
    for line in DRAWING:
        found = LINE.fullmatch(line)
        assert found, f"cannot read {line!r}"
        depth = len(found["stem"]) // 4
        del path[depth + 1 :]
        parents[found["name"]] = path[depth]
        path.append(found["name"])
    return parents


def test_the_drawing_is_the_tree() -> None:
    """Every class of errors.py hangs in the drawing where it hangs in Python, and no other does."""
    real = {name: kind.__base__.__name__ for name, kind in CLASSES.items() if kind.__base__}
    assert real.pop("TidegateError") == "Exception"

    assert drawn() == real


def test_branches_are_closed_where_they_end() -> None:
    """The last of each branch is drawn with a corner."""
    children: dict[str, list[str]] = {}
    for name, parent in drawn().items():
        children.setdefault(parent, []).append(name)
    corners = {line.split("── ")[1].split()[0] for line in DRAWING if "└──" in line}
    assert corners == {names[-1] for names in children.values()}


def test_every_class_has_words_in_the_drawing_and_a_docstring() -> None:
    """Nobody has to guess what an error means."""
    for line in DRAWING:
        found = LINE.fullmatch(line)
        assert found
        assert found["words"]
    assert all(kind.__doc__ for kind in CLASSES.values())


def test_only_what_is_unavailable_is_retryable() -> None:
    """Retrying helps where the way is blocked, but not where the drawing says that it does not."""
    retryable = {name for name, kind in CLASSES.items() if getattr(kind, "retryable", False)}
    hopeless = {
        line.split("── ")[1].split()[0] for line in DRAWING if "(a retry does not help)" in line
    }

    blocked = {name for name, kind in CLASSES.items() if issubclass(kind, errors.Unavailable)}
    assert hopeless == {"ServerMissing"}
    assert retryable == blocked - hopeless


MESSAGES: dict[str, tuple[TidegateError, str]] = {
    "InvalidName": (errors.InvalidName("team 'A': no"), "team 'A': no"),
    "InvalidEnvelope": (errors.InvalidEnvelope("oversized", "9 bytes"), "oversized: 9 bytes"),
    "InvalidRecord": (errors.InvalidRecord("not a ledger record"), "not a ledger record"),
    "InvalidDocument": (
        errors.InvalidDocument(
            Path("a.yaml"),
            [
                errors.Problem(3, "steps.a.task", "is required"),
                errors.Problem(4, "", "is empty"),
                errors.Problem(0, "", "over 10 bytes"),
            ],
        ),
        "a.yaml:3: steps.a.task: is required\na.yaml:4: is empty\na.yaml: over 10 bytes",
    ),
    "InvalidPolicy": (
        errors.InvalidPolicy(["a.cedar: no", "b.cedar: no"]),
        "a.cedar: no\nb.cedar: no",
    ),
    "InvalidExpression": (errors.InvalidExpression("1 +", "ends early"), "`1 +`: ends early"),
    "Denied": (
        errors.Denied("forbidden", "not at night", 7, ("night",)),
        "forbidden: not at night (ledger record 7)",
    ),
    "Rejected": (
        errors.Rejected("malformed", "no JSON", 8),
        "malformed: no JSON (ledger record 8)",
    ),
    "ServerFailed": (errors.ServerFailed("it stopped", "[FTL] no"), "it stopped\n[FTL] no"),
    "ServerFailed without log": (errors.ServerFailed("it stopped"), "it stopped"),
    "NoReceipt": (
        errors.NoReceipt("e-1", 2.50, "receipt"),
        "no receipt for envelope 'e-1' within 2.5 s",
    ),
    "Fenced": (errors.Fenced(41, "wrong last sequence"), "the ledger did not end at sequence 41: "),
    "LedgerGap": (errors.LedgerGap("LEDGER_0", 5, 7), "LEDGER_0: expected sequence 5, found 7"),
    "TopologyDrift": (errors.TopologyDrift(["a: 1, not 2", "b: gone"]), "a: 1, not 2\nb: gone"),
}


@pytest.mark.parametrize(("error", "message"), MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_says_what_and_where(error: TidegateError, message: str) -> None:
    """The wording of each error is made in one place, from its fields."""
    assert str(error).startswith(message)


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (MESSAGES["InvalidEnvelope"][0], {"code": "oversized", "detail": "9 bytes"}),
        (MESSAGES["Denied"][0], {"reason": "forbidden", "seq": 7, "policies": ("night",)}),
        (MESSAGES["Rejected"][0], {"reason": "malformed", "detail": "no JSON", "seq": 8}),
        (MESSAGES["InvalidDocument"][0], {"path": Path("a.yaml")}),
        (MESSAGES["InvalidExpression"][0], {"expression": "1 +", "detail": "ends early"}),
        (MESSAGES["ServerFailed"][0], {"log": "[FTL] no"}),
        (MESSAGES["NoReceipt"][0], {"envelope_id": "e-1"}),
        (MESSAGES["Fenced"][0], {"expected": 41}),
        (MESSAGES["LedgerGap"][0], {"stream": "LEDGER_0", "expected": 5, "found": 7}),
    ],
)
def test_an_error_carries_its_facts(error: TidegateError, fields: dict[str, Any]) -> None:
    """What the message is made of can be read without parsing the message."""
    assert {name: getattr(error, name) for name in fields} == fields


@pytest.mark.parametrize(("error", "message"), MESSAGES.values(), ids=MESSAGES.keys())
def test_an_error_goes_from_one_process_to_another(error: TidegateError, message: str) -> None:
    """With its class, its message and its facts."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert type(again) is type(error)
    assert str(again).startswith(message)
    assert again.__dict__ == error.__dict__
