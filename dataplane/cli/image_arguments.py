"""SOURCE arguments that may also name images of stores, or several things at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

from dataplane.cli.sources import open_argument
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.image_source import ImageSource

IMAGES_HELP = (
    "a file, a block device, an http(s) URL, a pattern of paths, or a store followed by the name (or a pattern of "
    "names) of its images"
)
PATTERN_MARKS = frozenset("*?[")


def open_images(stack: ExitStack, words: list[str], args: SimpleNamespace) -> tuple[list[str], list[ImageSource]]:
    """Open everything that `words` name and leave closing to `stack`; return names for people, and the sources.

    Raises SourceError, StoreError, NotFound or UsageError.
    """
    names: list[str] = []
    sources: list[ImageSource] = []
    words_left = iter(words)
    for word in words_left:
        if is_store(word):
            for name, source in open_stored(stack, word, next(words_left, None)):
                names.append(name)
                sources.append(source)
            continue
        for path in expand(word):
            source = stack.enter_context(open_argument(path, args))
            names.append(source.readers[0].name)
            sources.append(source)
    return names, sources


def is_store(word: str) -> bool:
    """Return whether a word is the folder of a store."""
    import os

    return os.path.isfile(os.path.join(word, "store.json"))


def expand(word: str) -> list[str]:
    """Return the paths that a pattern matches, in order; anything else is itself. Raises UsageError for none."""
    import os

    if "://" in word or not PATTERN_MARKS & set(word) or os.path.lexists(word):
        return [word]
    from glob import glob

    from dataplane.errors import UsageError

    found = sorted(glob(word, recursive=True))
    if not found:
        raise UsageError(f"nothing matches {word}")
    return found


def open_stored(stack: ExitStack, path: str, pattern: str | None) -> Iterator[tuple[str, ImageSource]]:
    """Open the images of a store whose names match a pattern, each protected from removal while it is read."""
    from fnmatch import fnmatchcase

    from dataplane.errors import NotFound, UsageError
    from dataplane.store.store import Store
    from dataplane.store.stored_image import StoredImage

    if pattern is None:
        raise UsageError(f"{path} is a store: name one of its images behind it, or all of them with '*'")
    store = stack.enter_context(Store.open(path))
    known = [pin.name for pin in store.pins()]
    names = [pattern] if pattern in known else [name for name in known if fnmatchcase(name, pattern)]
    if not names:
        raise NotFound(f"store {path} has no image {pattern}")
    for name in names:
        pin = stack.enter_context(store.reading(name))
        yield name, stack.enter_context(StoredImage(store, pin.root, pin.domain))
