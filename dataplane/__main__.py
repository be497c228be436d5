"""Lets ``python -m dataplane`` be the dataplane command."""

import sys

from dataplane.cli.main import main

sys.exit(main())
