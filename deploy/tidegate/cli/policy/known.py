"""What a project says of who takes part, for those who look at its policies."""

from __future__ import annotations

from tidegate.project import Project
from tidegate_policy.bundle.advice import Known
from tidegate_policy.roster import BUILT_IN, Roster
from tidegate_schemas.identity import Registration, is_built_in


def roster_of(project: Project | None) -> Roster:
    """The bus's own, and everybody whom the project declares."""
    members = list(BUILT_IN.members.values())
    if project is not None:
        takes = {str(manifest.principal): manifest.capabilities for manifest in project.manifests}
        members += (
            Registration(str(who), role, takes.get(str(who), ()))
            for who, role in project.principals
            if not is_built_in(str(who))
        )
    return Roster.of(members)


def known_of(project: Project) -> Known:
    """Everything that the project names."""
    topics = {topic for manifest in project.manifests for topic in manifest.subscribes}
    topics |= {blueprint.on.event for _, blueprint in project.blueprints if blueprint.on}
    return Known(roster_of(project), frozenset(topics))
