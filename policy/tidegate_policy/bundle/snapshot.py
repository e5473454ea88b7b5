"""A bundle and a roster: what policy says of one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tidegate_policy.engine import Counters
from tidegate_policy.obligations import NONE, Obligations, merge
from tidegate_policy.roster import Roster
from tidegate_schemas.subjects import Kind

from .schema import RESOURCES

if TYPE_CHECKING:
    from .contents import Bundle


_MAX_DEMANDED = 10_000


class Question(NamedTuple):
    """Everything that an answer of policy depends on.

    Attributes:
        by: who asks; `team.name`.
        kind, to, type: of the message.
        in_run: it belongs to a run of a blueprint.
        delegated: it is sent on behalf of somebody else.
        blueprint: of its run; empty where there is none.
        dataclassification: of the envelope.
        data: declared facts, as `Facts.of` gives them.
    """

    by: str
    kind: Kind
    to: str
    type: str
    in_run: bool = False
    delegated: bool = False
    blueprint: str = ""
    dataclassification: str | None = None
    data: Mapping[str, Any] | None = None


class Answer(NamedTuple):
    """What policy says.

    Attributes:
        allowed: by the policies in force, those without `@shadow`.
        policies: ids of those that decided, sorted.
        error: of the engine; what fails is not allowed.
        obligations: of all permits that let it through; of a denied message what to redact.
        learned: nothing permits it but policies that bear `@learn`.
        shadow: verdict and deciding policies as they would be with those that bear `@shadow`;
            None where they change nothing.
    """

    allowed: bool
    policies: tuple[str, ...]
    error: str = ""
    obligations: Obligations = NONE
    learned: bool = False
    shadow: tuple[bool, tuple[str, ...]] | None = None


class Snapshot:
    """A bundle that speaks of a roster. Never changes.

    Attributes:
        bundle: the policies.
        roster: who takes part.
    """

    def __init__(self, bundle: Bundle, roster: Roster) -> None:
        self.bundle = bundle
        self.roster = roster
        self._demanded: dict[tuple[str, ...], tuple[Obligations, bool]] = {}
        entities = bundle.groups.entities(roster)
        self._enforced = bundle.enforced.of(entities)
        self._shadowed = bundle.shadowed.of(entities) if bundle.shadowed else None
        self._redacting = bundle.redacting.of(entities) if bundle.redacting else None

    @property
    def counters(self) -> Counters:
        """What was remembered of the policies in force, and what that takes."""
        return self._enforced.counters

    def ask(self, question: Question) -> Answer:
        """Authorize a message."""
        bundle, kind, to = self.bundle, question.kind, question.to
        context: dict[str, Any] = {
            "to": to,
            "type": question.type,
            "in_run": question.in_run,
            "delegated": question.delegated,
            "blueprint": question.blueprint,
        }
        if question.dataclassification is not None:
            context["dataclassification"] = question.dataclassification
        if question.data is not None:
            context["data"] = question.data
        action = bundle.facts.action(kind, to)
        request = question.by, action, (RESOURCES[kind], to), context
        said = self._enforced.ask(*request)
        learned = False
        if said.allowed:
            obligations, learned = self._demands(said.policies)
        elif self._redacting:
            masked = self._redacting.ask(*request)
            # Whether one that fails would match, nobody knows. The record is for ever.
            obligations = (
                self.precautions(kind, to)
                if masked.error
                else merge(bundle.rules[name].redacts for name in masked.policies)
            )
        else:
            obligations = NONE
        shadow = None
        if self._shadowed:
            other = self._shadowed.ask(*request)
            if (other.allowed, other.policies) != (said.allowed, said.policies):
                shadow = other.allowed, other.policies
        return Answer(
            said.allowed,
            said.policies,
            said.error,
            obligations,
            learned,
            shadow,
        )

    def ask_for(self, question: Question, chain: tuple[str, ...]) -> Answer:
        """Authorize a message that is sent on behalf of others: all must be permitted it.

        What decided, decided for either. Of a denied message is redacted what might have been for
        any of them.
        """
        answer = self.ask(question)
        for principal in chain:
            if not answer.allowed:
                break
            behind = self.ask(question._replace(by=principal, delegated=True))
            if not behind.allowed:
                answer = behind
                break
            answer = answer._replace(
                policies=tuple(sorted({*answer.policies, *behind.policies})),
                obligations=merge((answer.obligations, behind.obligations)),
                learned=answer.learned or behind.learned,
            )
        if chain and not answer.allowed:  # what each of them would have had redacted
            answer = answer._replace(obligations=self.precautions(question.kind, question.to))
        return answer

    def _demands(self, policies: tuple[str, ...]) -> tuple[Obligations, bool]:
        """What the permits that let a message through demand, and whether all of them learn."""
        found = self._demanded.get(policies)
        if found is None:
            rules = [self.bundle.rules[name] for name in policies]
            found = merge(rule.obligations for rule in rules), all(rule.learn for rule in rules)
            if len(self._demanded) >= _MAX_DEMANDED:
                self._demanded.clear()
            self._demanded[policies] = found
        return found

    def precautions(self, kind: Kind, to: str) -> Obligations:
        """What to redact of a message that policy cannot be asked about.

        Of every policy in force that might be for it; who sent it and what it says is left out.
        """
        action = self.bundle.facts.action(kind, to)
        return merge(rule.redacts for rule in self.bundle.redactions if rule.covers(action))
