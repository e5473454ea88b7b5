"""Doing the work. Imports the bus floor and the schemas, nothing of the policy floor.

agent        what authors write: handlers          worker       the daemon that runs them
expression   CEL                                   run          one run as an immutable value
fold         all runs, as a fold of the ledger     coordinator  the process that advances them
retry        when to try again
"""

from .agent import Agent, Context, load_agent
from .worker import Worker

__all__ = ["Agent", "Context", "Worker", "load_agent"]
