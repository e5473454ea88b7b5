"""The CEL library without its command line.

Importing `cel` imports a terminal toolkit too: half a second and some megabytes for every process
that evaluates an expression. So its compiled module is loaded by itself, under its own name.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import PathFinder
from typing import Any

_NAME = "cel.cel"


def _load() -> Any:
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    package = importlib.util.find_spec("cel")
    found = package and PathFinder.find_spec(_NAME, package.submodule_search_locations)
    if not (found and found.loader):
        raise ModuleNotFoundError("common-expression-language is not installed as it should be")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    sys.modules[_NAME] = module  # so that whoever imports the package gets the same one
    return module


cel = _load()
