"""`python -m service VERB`: the verbs of the control plane without the rest of the command line."""

from __future__ import annotations

import argparse
import sys

from service.cli import VERBS


def main() -> int:
    """Parse the command line and run its verb; return the exit code."""
    parser = argparse.ArgumentParser(prog="service", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        part = verbs.add_parser(verb.name, help=verb.help)
        verb.add_arguments(part)
        part.set_defaults(verb=verb)
    args = parser.parse_args()
    code: int = args.verb.run(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
