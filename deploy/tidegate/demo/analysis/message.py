"""Commit messages: what a reader of the history will stumble over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tidegate.demo.review import CommitMessage, MessageFault, MessageReview

MAX_SUBJECT = 72
"""What one line of most tools shows."""
MAX_BODY_LINE = 80
"""The custom is 72; a little over disturbs nobody."""

_UNFINISHED = re.compile(r"(fixup|squash|amend)!|\[?\b(wip|do not merge|dnm)\b", re.IGNORECASE)
_GENERATED = re.compile(r"(Merge|Revert|Reapply) ")
_PREFIX = re.compile(r"(\[[^\]]*\]|[\w./-]+(\([^)]*\))?!?:)\s+")
"""`feat(bus): `, `ADR-60: `, `[docs] `: the sentence begins after it."""
_UNWRAPPED = re.compile(r"\s*([|>]|[A-Z][\w-]+: |\S*$|.*https?://\S+$)")
"""Quotes, tables, trailers, single words and lines with a link: these are not wrapped."""

_MOODS = {
    form: verb
    for verb, forms in {
        "add": "adds added adding",
        "allow": "allows allowed allowing",
        "avoid": "avoids avoided avoiding",
        "bump": "bumped bumping",
        "change": "changed changing",
        "clarify": "clarifies clarified clarifying",
        "correct": "corrects corrected correcting",
        "create": "creates created creating",
        "delete": "deletes deleted deleting",
        "ensure": "ensures ensured ensuring",
        "fix": "fixed fixing",
        "implement": "implements implemented implementing",
        "improve": "improves improved improving",
        "introduce": "introduces introduced introducing",
        "make": "makes made making",
        "move": "moved moving",
        "refactor": "refactored refactoring",
        "remove": "removes removed removing",
        "rename": "renames renamed renaming",
        "replace": "replaces replaced replacing",
        "update": "updated updating",
        "use": "used using",
    }.items()
    for form in forms.split()
}
"""Forms that are certainly not imperative. `fixes` and `updates` are nouns too, so they pass."""


def review_message(message: CommitMessage) -> MessageReview:
    """Review a message. The subjects of merges and reverts are git's own, so they pass."""
    faults = list(_unfinished(message))
    if not (message.merge or _GENERATED.match(message.subject)):
        faults += _subject(message.subject)
    return MessageReview((*faults, *_body(message.body)))


def _unfinished(message: CommitMessage) -> Iterator[MessageFault]:
    if not message.subject.strip():
        yield MessageFault("empty", "there is no message")
    elif found := _UNFINISHED.match(message.subject):
        yield MessageFault("unfinished", f"`{found[0].strip('[')}` says that it is not done")


def _subject(subject: str) -> Iterator[MessageFault]:
    if len(subject) > MAX_SUBJECT:
        yield MessageFault(
            "subject-length", f"the subject has {len(subject)} characters, {MAX_SUBJECT} are shown"
        )
    sentence = subject[found.end() :] if (found := _PREFIX.match(subject)) else subject
    words = sentence.split()
    if len(words) == 1:
        yield MessageFault("terse", f"`{subject[:40]}` alone does not say what was done")
    if words and (verb := _MOODS.get(words[0].lower())):
        yield MessageFault("mood", f"`{words[0]}`: write `{verb}`, as in an order")
    if subject.endswith(".") and not subject.endswith(".."):
        yield MessageFault("full-stop", "the subject is a headline, without a full stop")


def _body(body: str) -> Iterator[MessageFault]:
    lines = body.split("\n")
    if lines[0].strip():
        yield MessageFault("blank-line", "the second line is not blank, so tools join it")
    long = [line for line in _prose(lines) if len(line) > MAX_BODY_LINE]
    if long:
        yield MessageFault(
            "body-wrap", f"{len(long)} lines of the body are over {MAX_BODY_LINE} characters"
        )


def _prose(lines: list[str]) -> Iterator[str]:
    """Lines that can be wrapped: no code, quotes, tables, links or trailers."""
    fenced = False
    for line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not (fenced or line.startswith(("    ", "\t")) or _UNWRAPPED.match(line)):
            yield line
