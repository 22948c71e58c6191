"""Run the command line as ``python -m flatlib.cli``."""

import sys

from flatlib.cli import main

sys.exit(main())
