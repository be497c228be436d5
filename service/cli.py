"""The verbs that the control plane adds to `dataplane`; their code is imported only when they run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of the command line."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    start: Callable[[argparse.Namespace], int]

    def run(self, args: argparse.Namespace) -> int:
        """Run the verb; return the exit code. Errors are one line on stderr."""
        from service.exits import exit_code_of

        try:
            return self.start(args)
        except KeyboardInterrupt:
            sys.stderr.write("dataplane: cancelled\n")
            return 130
        except BrokenPipeError:  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            code, line = exit_code_of(error)
            sys.stderr.write(f"dataplane: {line}\n")
            return code


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder of the store and the catalogue; made when missing"
    )
    parser.add_argument(
        "--listen", default="127.0.0.1:9443", metavar="HOST:PORT", help="default %(default)s; port 0 is any"
    )
    parser.add_argument("--announce", metavar="HOST:PORT", help="address told to SDKs; default: the one listened on")
    parser.add_argument("--dev", action="store_true", help="own authority, any bearer token, http and loopback sources")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="imports at once; default %(default)s")
    parser.add_argument(
        "--allow-source",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="a host that may be read from although its address is private; may be repeated",
    )


def _serve(args: argparse.Namespace) -> int:
    from pathlib import Path

    from service.config import Address, ServeConfig

    config = ServeConfig(
        data_dir=Path(args.data).absolute(),
        listen=Address.parse(args.listen),
        announce=Address.parse(args.announce) if args.announce else None,
        dev=args.dev,
        workers=args.workers,
        allow_source=tuple(args.allow_source),
    )
    from service.server import serve

    return serve(config)


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    from service.client import arguments

    arguments.add(parser)


def _image(args: argparse.Namespace) -> int:
    from service.client import verbs

    return verbs.run(args)


SERVE = Verb("serve", "serve the image API over gRPC", _serve_arguments, _serve)
IMAGE = Verb("image", "create, list and delete images of a server", _image_arguments, _image)
