"""Run the command line as ``python -m flatlib``."""

import sys

from flatlib.cli import main

sys.exit(main())
