"""The demo: a team of agents reviews the last commits of a git repository.

    project/    the Tidegate project that runs: settings, manifests, blueprint, policy
    commits     the outside system: reads commits, makes an event of each
    secrets, churn, syntax, message, verdict, rogue
                the agents, one thin module each
    analysis/   what the reviewers know, over values: no bus, no git
    forgery     what the rogue sends
    git, patch, sources
                reading a repository, within bounds
    review      what travels: commits, reviews, judgements

Only the agent modules need a bus.
"""

from pathlib import Path

PROJECT = Path(__file__).parent / "project"
"""The project folder, as it is shipped."""

__all__ = ["PROJECT"]
