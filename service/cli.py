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


def _settings_arguments(parser: argparse.ArgumentParser) -> None:
    from service import settings

    settings.add_arguments(parser)


def _serve(args: argparse.Namespace) -> int:
    from service import settings
    from service.config import ServeConfig

    resolved = settings.resolve(args)
    config = ServeConfig.from_settings(resolved)
    from service.server import serve

    return serve(config, resolved)


def _worker(args: argparse.Namespace) -> int:
    from service import settings
    from service.config import WorkConfig

    resolved = settings.resolve(args)
    config = WorkConfig.from_settings(resolved)
    from service import worker_verb

    return worker_verb.run(config, resolved)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="show")
    show = actions.add_parser("show", help="print every setting, its value and where that came from")
    show.add_argument("--json", action="store_true", help="print a JSON array of key, value and origin")
    _settings_arguments(show)


def _config(args: argparse.Namespace) -> int:
    from service import config_verb

    return config_verb.show(args)


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="new")
    new = actions.add_parser("new", help="make a token; prints it, and the entry for the file of --auth tokens:FILE")
    new.add_argument("--subject", required=True, metavar="NAME", help="whom the policy knows the holder as")
    new.add_argument("--days", type=int, metavar="N", help="days until it runs out; default: never")
    new.add_argument("--file", metavar="FILE", help="append the entry to FILE, so that only the token is printed")


def _token(args: argparse.Namespace) -> int:
    from service import token_verb

    return token_verb.new(args)


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    from service.client import arguments

    arguments.add(parser)


def _image(args: argparse.Namespace) -> int:
    from service.client import verbs

    return verbs.run(args)


SERVE = Verb("serve", "serve the image API over gRPC", _settings_arguments, _serve)
WORKER = Verb(
    "worker",
    "add workers to a server's data folder; settings of listeners mean nothing here",
    _settings_arguments,
    _worker,
)
CONFIG = Verb("config", "show what a server would be told, and by whom", _config_arguments, _config)
TOKEN = Verb("token", "make tokens for a server that checks them", _token_arguments, _token)
IMAGE = Verb("image", "create, list and delete images of a server", _image_arguments, _image)
VERBS = (SERVE, WORKER, CONFIG, TOKEN, IMAGE)
