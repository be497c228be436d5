"""The dataplane command: finds the verb, runs it, and turns errors into one line and an exit code.

Nothing is imported before it is known to be needed: half of what a short command costs is the start of Python.
"""

from __future__ import annotations

import gc
import sys

from dataplane import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself is imported only by type checkers
    from collections.abc import Callable
    from importlib.metadata import EntryPoint
    from typing import Any

VERBS = {
    "init": "create a store",
    "import": "store a disk image under a name",
    "export": "write a stored image to a file, a block device or standard output",
    "ls": "list the images of a store",
    "stat": "show the sizes of an image, or of a store",
    "rm": "remove an image from a store",
    "undelete": "bring back an image that was removed",
    "gc": "delete what no image uses",
    "verify": "read stored chunks again and say what is hurt",
    "repair": "set damaged files aside and put back what can be had",
    "measure": "say what images would take in a store, without one",
    "tune": "find the chunk size and codec that suit some images",
    "map": "show where an image has data, and what it shares",
    "diff": "show what differs between two images of a store",
    "nbd": "serve an image, or a disk made of it, to NBD clients",
    "snapshot": "store what a disk holds at this moment as an image",
    "doctor": "show CPU features, kernel variants and library versions",
}
VERB_GROUP = "dataplane.verbs"

COLLECTION_THRESHOLD = 20_000
"""New containers between two looks of Python's collector for cycles. By default it is 700, and the modules of a verb
are looked at again and again while they are loaded, which takes a twentieth of a short verb's time."""


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread, so that everything in progress is undone."""


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["--version"], ["-V"]):
        sys.stdout.write(f"dataplane {__version__}\n")
        return 0
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if arguments else 2
    return run_verb(arguments[0], arguments[1:])


def overview() -> str:
    """Return the help that lists every verb."""
    verbs = {**VERBS, **{name: entry.load().help for name, entry in added_verbs().items()}}
    width = max(map(len, verbs))
    lines = [f"  {name:<{width}}  {text}" for name, text in verbs.items()]
    return "\n".join(
        [
            "usage: dataplane VERB …",
            "",
            *lines,
            "",
            "dataplane VERB --help explains a verb; --version shows the version.",
            "",
        ]
    )


def added_verbs() -> dict[str, EntryPoint]:
    """Return the verbs that other packages registered, as entry points by name."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=VERB_GROUP)}


def run_verb(name: str, arguments: list[str]) -> int:
    """Parse the verb's arguments and run it."""
    gc.set_threshold(COLLECTION_THRESHOLD)
    from dataplane.cli.verb_parser import VerbParser

    parser: Any
    if name in VERBS:
        verb: Any = __import__(f"dataplane.cli.{name}_verb", fromlist=["run"])
        parser = VerbParser(name, VERBS[name])
    else:
        entry = added_verbs().get(name)
        if entry is None:
            sys.stderr.write(f"dataplane: {name!r} is not a verb: run dataplane --help for the list\n")
            return 2
        from dataplane.cli.full_parser import full_parser

        verb = entry.load()
        parser = full_parser(VerbParser(name, verb.help))
    verb.add_arguments(parser)
    return guarded(lambda: verb.run(parser.parse_args(arguments)))


def guarded(run: Callable[[], int]) -> int:
    """Run a verb; an expected error is one line on standard error, and never a traceback."""
    import os
    import signal

    from dataplane.cli.exits import INTERRUPTED, TERMINATED, exit_code
    from dataplane.errors import DataplaneError

    def terminate(_signal: int, _frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        return run()
    except DataplaneError as error:
        sys.stderr.write(f"dataplane: {error}\n")
        return exit_code(error)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"dataplane: {'; '.join(['interrupted', *notes(stop)])}\n")
        return INTERRUPTED
    except Terminated as stop:
        sys.stderr.write(f"dataplane: {'; '.join(['terminated', *notes(stop)])}\n")
        return TERMINATED
    except MemoryError as error:
        sys.stderr.write(f"dataplane: out of memory: {error}\n")
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        # A disk that fails may do so anywhere, even where we only ask whether a file is there.
        sys.stderr.write(f"dataplane: {error.filename or 'a file'} cannot be used: {error.strerror or error}\n")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def notes(stop: BaseException) -> list[str]:
    """Return what those that an exception passed through had to say of what they leave behind."""
    return getattr(stop, "__notes__", [])


if __name__ == "__main__":
    sys.exit(main())
