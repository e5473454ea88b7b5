"""An agent that greets. Run by `tidegate up`, or alone: tidegate agent run greeter:agent."""

import msgspec

from tidegate import Agent

agent = Agent()


class Visitor(msgspec.Struct):
    """What a greeting needs."""

    name: str


class Greeting(msgspec.Struct):
    """What comes back."""

    text: str


@agent.task("greeting.write")
async def greet(visitor: Visitor) -> Greeting:
    """Greet a visitor."""
    return Greeting(text=f"Hello, {visitor.name}!")
