"""Command lines that verbs read without argparse mean what they mean to argparse."""

from __future__ import annotations

import contextlib
import io
from importlib import import_module
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.cli.full_parser import full_parser
from dataplane.cli.main import VERBS
from dataplane.cli.verb_parser import ACTIONS, NotPlain, PlainReading, VerbParser, is_value

WORDS = (
    "disk",
    "store",
    "-",
    "",
    "64K",
    "5%",
    "0.05",
    "3",
    "10m",
    "a=b",
    "zstd:1",
    "raw",
    "none",
    "1/64",
    "space=1",
    "x y",
)
ODD = ("--", "-x", "-5", "--no", "--jso", "--unknown", "--json=1", "- x", "--=", "-h")


def declared(verb: str) -> VerbParser:
    """Return a parser with the arguments of a verb."""
    parser = VerbParser(verb, VERBS[verb])
    import_module(f"dataplane.cli.{verb}_verb").add_arguments(parser)
    return parser


def options(parser: VerbParser) -> list[str]:
    """Return the options of a verb, and those that say no."""
    found = [name for names, _ in parser.declared for name in names if name.startswith("-")]
    return [*found, *(f"--no-{name.removeprefix('--')}" for name in found)]


def full_reading(parser: VerbParser, words: list[str]) -> dict[str, object] | None:
    """Return what argparse makes of a command line, None when it ends the program."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return vars(full_parser(parser).parse_args(words))
        except SystemExit:
            return None


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A verb and words behind it: most often its options and values, side by side in any way."""
    verb = draw(st.sampled_from(sorted(VERBS)))
    names = options(declared(verb))
    word = st.sampled_from(WORDS)
    given_option = st.sampled_from(names) if names else word
    pieces = st.one_of(
        st.lists(word, min_size=1, max_size=3),
        st.tuples(given_option).map(list),
        st.tuples(given_option, word).map(list),
        st.tuples(given_option, word).map(lambda pair: ["=".join(pair)]),
        st.sampled_from(ODD).map(lambda odd: [odd]),
    )
    start = draw(st.lists(word, max_size=3))
    return verb, [*start, *(one for piece in draw(st.lists(pieces, max_size=4)) for one in piece)]


@given(lines())
def test_what_is_read_plainly_is_what_argparse_reads(line: tuple[str, list[str]]) -> None:
    verb, words = line
    parser = declared(verb)
    try:
        found = PlainReading(parser.declared, parser.exclusive).read(list(words))
    except NotPlain:
        return
    assert found == full_reading(parser, words)


@pytest.mark.parametrize(
    "line",
    [
        "measure disk another --codec none --json", "measure --chunk-size=4K disk",
        "tune disk --chunk-sizes 4K..64K --cdc",
        "map disk --against one two --cells 7", "import store disk --name new --threads 2 --backing a --backing b",
        "export store image - --no-sync --sparse --progress none", "stat store", "stat store image --json", "ls store",
        "verify store --progress=json", "gc store --dry-run", "diff store a b", "nbd store image --socket path",
        "doctor", "init store --codec zstd:3",
    ],
)  # fmt: skip
def test_ordinary_lines_are_read_plainly(line: str) -> None:
    verb, *words = line.split()
    parser = declared(verb)
    assert PlainReading(parser.declared, parser.exclusive).read(words) == full_reading(parser, words)


@pytest.mark.parametrize(
    "line",
    ["measure", "measure disk --codec", "measure disk --json another", "ls store another", "import store disk",
     "measure disk --threads 0", "export store image - --format vmdk", "nbd store image --socket a --listen b", "ls"],
)  # fmt: skip
def test_what_is_wrong_is_left_to_argparse(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb, *words = line.split()
    with pytest.raises(SystemExit) as stopped:
        declared(verb).parse_args(words)
    assert stopped.value.code == 2
    assert f"usage: dataplane {verb}" in capsys.readouterr().err


def test_abbreviations_are_read_too() -> None:
    assert declared("ls").parse_args(["store", "--js"]) == SimpleNamespace(store="store", json=True)


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_declare_only_what_is_read_here(verb: str) -> None:
    for names, said in declared(verb).declared:
        assert said.get("action", "store") in ACTIONS
        assert said.keys() <= {
            *("action", "choices", "default", "dest", "help", "metavar", "nargs", "required", "type")
        }, names
        assert said.get("nargs") in (None, "+", "?")
        assert all(is_value(name) or name.startswith("--") for name in names)
