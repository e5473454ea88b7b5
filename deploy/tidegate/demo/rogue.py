"""The agent `review.rogue`: it forges work, to show that the bus does not let it.

It holds valid credentials and may hear of commits. It asks the verdict agent to approve the
first one, past the coordinator and all reviewers, and is refused by policy.
"""

from __future__ import annotations

from tidegate_agents import Agent, Context
from tidegate_schemas.errors import Denied

from .commits import EVENT
from .forgery import Attempts, forge
from .review import Commit

agent = Agent()
attempts = Attempts(3)


@agent.event(EVENT)
async def rogue(commit: Commit, context: Context) -> None:
    """Try once, or a few times when no answer comes; quiet after the first answer."""
    if not attempts.begin():
        return
    answered = False
    try:
        await context.publish(forge(commit))
    except Denied as denied:
        answered = True
        context.log.warning(
            "forged task refused", sha=commit.sha, reason=denied.reason, policies=denied.policies
        )
    else:
        answered = True
        context.log.error("forged task delivered", sha=commit.sha)
    finally:
        attempts.end(last=answered)
