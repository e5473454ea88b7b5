"""Benchmarks of the whole bus on this machine, on a stack of their own.

project/   the project that is measured    echo     its agent
load       what is sent, and the figures   machine  what it ran on
"""

from pathlib import Path

PROJECT = Path(__file__).parent / "project"
"""The project folder, as it is shipped."""

__all__ = ["PROJECT"]
