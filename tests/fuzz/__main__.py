"""``python -m tests.fuzz TARGET --seconds N``: coverage-guided fuzzing of one parser; a crash leaves its input."""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
from pathlib import Path

import atheris

# Checksums have no branches worth finding, and are slow enough as they are.
with atheris.instrument_imports(
    include=["dataplane.formats", "dataplane.readers"], exclude=["dataplane.formats.crc32c"]
):
    from tests.fuzz.mutants import mutant
    from tests.fuzz.targets import INPUT_SIZE_MAX, TARGETS

    # Parsers are imported when they are first used, and only what is imported here is guided by coverage.
    for target in TARGETS.values():
        for seed in target.seeds():
            target.run(seed)

ADDRESS_SPACE_MAX = 4 << 30
"""Bytes: an allocation of a size that an input has made up fails and is a crash."""

INPUT_SECONDS_MAX = 10


def main() -> None:
    """Fuzz until the time is over; the exit code is not 0 when an input has broken a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS), nargs="?", help="without one, the targets are listed")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where inputs are kept between runs")
    args = parser.parse_args()
    if args.target is None:
        sys.stdout.write("\n".join(TARGETS) + "\n")
        return
    corpus = args.folder / args.target
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[args.target].seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_MAX, ADDRESS_SPACE_MAX))
    options = [
        f"-max_total_time={args.seconds}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-max_len={INPUT_SIZE_MAX}",
        "-rss_limit_mb=1024",
        f"-artifact_prefix={args.folder}/{args.target}-",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    run = TARGETS[args.target].run

    def run_input(content: bytes) -> None:
        run(content)

    piece_size = TARGETS[args.target].piece_size

    def mutate(content: bytes, size_max: int, seed: int) -> bytes:
        draw = random.Random(seed)
        made = mutant(draw, content, piece_size) if draw.random() < 0.7 else atheris.Mutate(content, size_max)
        return made[:size_max]

    more = {} if piece_size is None else {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *options, str(corpus)], run_input, **more)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
