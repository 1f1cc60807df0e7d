"""``python -m whet`` is the command ``whet``."""

import sys

from whet.cli import main

sys.exit(main())
