"""`python -m tidegate`."""

import sys

from .cli import main

sys.exit(main())
