"""Realistic disk images, equal for equal options: ext4 disks full of the machine's own files, and their conversions.

Nothing needs root or a mount: ``mke2fs -d`` fills the file system, ``debugfs`` edits it, ``qemu-img`` converts it.
The functions that take a `path` build there; those named ``corpus_…`` build once into ``.corpus/`` and remember.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / ".corpus"
RECIPE = 1
"""Raise it when the same options are to give other bytes: what ``.corpus/`` holds is then built anew."""

MIB = 1 << 20
BLOCK_SIZE = 4096
PARTITION_OFFSET = MIB
FILE_SIZE_MAX = 128 * MIB
CLOCK = "1735689600"
"""Seconds since 1970 that every time stamp of our own making carries, so that equal options give equal bytes."""

IDENTITY = "3a7d2b1c-58e4-4f6a-9c0d-7e15b8a2f943"
MBR_ENTRY = struct.Struct("<B3sB3sII")  # status, first CHS, type, last CHS, first sector, sectors
CHS_UNUSED = b"\xfe\xff\xff"


def ext4_disk(path: Path, size_bytes: int, fill: float = 0.5, seed: int = 1, source: str | Path = "/usr") -> Path:
    """Build at `path` a raw disk of `size_bytes` with one ext4 partition that holds files of `source`.

    Files fill at most the share `fill` of the disk, chosen folder by folder in an order drawn from `seed`. The result
    is sparse. Raises RuntimeError with the tool's words when a tool fails, FileNotFoundError when it is missing.
    """
    with tempfile.TemporaryDirectory(prefix="disk-", dir=path.parent) as work:
        tree, disk = Path(work, "tree"), Path(work, "disk")
        files = list(choose_files(Path(source), int(size_bytes * fill), seed))
        plant(files, tree)
        write_partition_table(disk, size_bytes)
        make_file_system(disk, size_bytes, tree, inodes=max(4096, 2 * len(files)))
        set_change_times(disk, tree)
        copy_sparse(disk, Path(work, "sparse")).replace(path)
    return path


def changed_version(disk: Path, target: Path, seed: int = 2, share: float = 0.05) -> Path:
    """Build at `target` a copy of `disk` (of ext4_disk) as some weeks of use would leave it; sparse again.

    Of the bytes in files, the share `share` each is deleted, rewritten with its content moved by some bytes, and
    (in files of a megabyte or more) overwritten in place here and there.
    """
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="edit-", dir=target.parent) as work:
        copy = copy_sparse(disk, Path(work, "disk"))
        files = [(name, size) for name, size in files_in(copy) if size > 0]
        chance.shuffle(files)
        budget = int(share * sum(size for _, size in files))
        overwritten = take(files, budget, size_min=MIB)
        shifted = take(files, budget, size_min=BLOCK_SIZE)
        deleted = take(files, budget, size_min=1)
        overwrite_in_place(copy, overwritten, chance)
        debugfs(copy, [f"rm {quoted(name)}" for name in deleted], write=True)
        rewrite_shifted(copy, shifted, Path(work), chance)
        copy_sparse(copy, Path(work, "sparse")).replace(target)
    return target


def convert(
    source: Path,
    target: Path,
    format: str,
    *,
    source_format: str = "raw",
    compression: str | None = None,
    **options: str,
) -> Path:
    """Convert with qemu-img and return `target`; `compression` is ``zlib`` or ``zstd``, `options` are the format's."""
    if compression is not None:
        options["compression_type"] = compression
    settings = [argument for key, value in options.items() for argument in ("-o", f"{key}={value}")]
    compress = ["-c"] if compression is not None else []
    run("qemu-img", "convert", "-f", source_format, "-O", format, *compress, *settings, source, target)
    return target


def drop(path: Path) -> None:
    """Take a file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # only clean pages can be dropped
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def warm(path: Path) -> int:
    """Read `path` through once, so that a measurement finds it in the page cache; return its size in bytes."""
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
        return file.tell()


# ------------------------------------------------------------------------------------------------- kept between runs
def corpus_disk(size_bytes: int, fill: float = 0.5, seed: int = 1, source: str | Path = "/usr") -> Path:
    """Return ext4_disk with these options out of ``.corpus/``, building it the first time."""
    name = f"disk-{size_bytes // MIB}m-{key(size_bytes, fill, seed, source)}.raw"
    return kept(name, lambda path: ext4_disk(path, size_bytes, fill, seed, source))


def corpus_changed(disk: Path, seed: int = 2, share: float = 0.05) -> Path:
    """Return changed_version of a disk of the corpus, building it the first time."""
    name = f"{disk.stem}-changed-{key(seed, share)}.raw"
    return kept(name, lambda path: changed_version(disk, path, seed, share))


def corpus_converted(disk: Path, format: str, *, compression: str | None = None, **options: str) -> Path:
    """Return convert of a raw disk of the corpus, building it the first time."""
    kind = key(format, compression, sorted(options.items()))
    name = f"{disk.stem}-{compression or 'plain'}-{kind}.{format}"
    return kept(name, lambda path: convert(disk, path, format, compression=compression, **options))


def kept(name: str, build: Callable[[Path], Path]) -> Path:
    """Return ``.corpus/name``; when it is not there, let `build` make it under another name and move it into place."""
    path = CORPUS / name
    if not path.exists():
        CORPUS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="new-", dir=CORPUS) as folder:
            build(Path(folder, name)).replace(path)
    return path


def key(*options: object) -> str:
    """Return eight letters that stand for the options of a build and the recipe of this file."""
    return hashlib.sha256(repr([RECIPE, *map(str, options)]).encode()).hexdigest()[:8]


# ------------------------------------------------------------------------------------------------ building blocks
def choose_files(source: Path, budget_bytes: int, seed: int) -> Iterator[Path]:
    """Yield readable regular files of `source`, whole folders at a time in seeded order, while they fit the budget."""
    folders = [Path(folder) for folder, _, names in os.walk(source) if names and not folder.endswith("__pycache__")]
    folders.sort(key=lambda folder: hashlib.sha256(f"{seed} {folder.relative_to(source)}".encode()).digest())
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                continue
            blocks_size = -(-path.stat().st_size // BLOCK_SIZE) * BLOCK_SIZE
            if 0 < blocks_size <= min(budget_bytes, FILE_SIZE_MAX):
                budget_bytes -= blocks_size
                yield path
        if budget_bytes < BLOCK_SIZE:
            return


def plant(files: Sequence[Path], tree: Path) -> None:
    """Put `files` under `tree` at the same places: by hard link where that is allowed, else as copies."""
    tree.mkdir()
    for path in files:
        place = tree / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:
            shutil.copy2(path, place)
    for folder, _, _ in os.walk(tree):
        os.utime(folder, (int(CLOCK), int(CLOCK)))


def write_partition_table(disk: Path, size_bytes: int) -> None:
    """Make `disk` an empty file of `size_bytes` with an MBR that names one Linux partition up to its end."""
    sectors = (size_bytes - PARTITION_OFFSET) // 512
    entry = MBR_ENTRY.pack(0x80, CHS_UNUSED, 0x83, CHS_UNUSED, PARTITION_OFFSET // 512, sectors)
    with disk.open("wb") as file:
        file.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
        file.truncate(size_bytes)


def make_file_system(disk: Path, size_bytes: int, tree: Path, *, inodes: int) -> None:
    """Write an ext4 file system with the content of `tree` into the partition."""
    extended = f"offset={PARTITION_OFFSET},hash_seed={IDENTITY},lazy_itable_init=0,root_owner=0:0,nodiscard"
    blocks = (size_bytes - PARTITION_OFFSET) // BLOCK_SIZE
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", BLOCK_SIZE, "-N", inodes, "-U", IDENTITY, "-E", extended]
    run(*command, "-d", tree, disk, blocks)


def set_change_times(disk: Path, tree: Path) -> None:
    """Give every inode the fixed change time: mke2fs copies that of `tree`, which is the time of the build."""
    paths = ["/"] + [f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*"))]
    fields = ("atime", "ctime", "crtime")
    debugfs(disk, [f"sif {quoted(path)} {field} @{CLOCK}" for path in paths for field in fields], write=True)


def copy_sparse(source: Path, target: Path) -> Path:
    """Copy a disk with every block of zeros left out, whether it was written or merely allocated; return `target`."""
    run("cp", "--sparse=always", source, target)
    return target


def files_in(disk: Path) -> Iterator[tuple[str, int]]:
    """Yield (path, size in bytes) of the regular files on the disk whose names debugfs can take."""
    folders = ["/"]
    while folders:
        below: list[str] = []
        listings = re.split(r"^debugfs: .*\n", debugfs(disk, [f"ls -p {quoted(f)}" for f in folders]), flags=re.M)[1:]
        for folder, listing in zip(folders, listings, strict=True):
            for _, mode, _, _, name, size in re.findall(r"^/(\d+)/(\d+)/(\d+)/(\d+)/([^/\n]*)/(\d*)/$", listing, re.M):
                path = f"{folder.rstrip('/')}/{name}"
                if mode.startswith("04") and name not in (".", ".."):
                    below.append(path)
                elif mode.startswith("10") and '"' not in name:
                    yield path, int(size)
        folders = below


def take(files: list[tuple[str, int]], budget_bytes: int, *, size_min: int) -> list[str]:
    """Remove from `files` the first ones of at least `size_min` bytes that fit the budget; return their paths."""
    taken: list[str] = []
    for entry in list(files):
        if size_min <= entry[1] <= budget_bytes:
            budget_bytes -= entry[1]
            files.remove(entry)
            taken.append(entry[0])
    return taken


def overwrite_in_place(disk: Path, names: Sequence[str], chance: random.Random) -> None:
    """Put new bytes into about one 16 KiB page in five of each file, as a database does, without moving anything."""
    listing = debugfs(disk, [f"blocks {quoted(name)}" for name in names])
    with disk.open("r+b") as file:
        for row in re.findall(r"^[\d ]*\d[\d ]*$", listing, re.M):
            for block in row.split()[::4]:
                if chance.random() < 0.2:
                    file.seek(PARTITION_OFFSET + int(block) * BLOCK_SIZE + chance.randrange(BLOCK_SIZE // 2))
                    file.write(chance.randbytes(chance.randrange(16, BLOCK_SIZE // 2)))


def rewrite_shifted(disk: Path, names: Sequence[str], work: Path, chance: random.Random) -> None:
    """Write each file anew with some bytes inserted near its start, so that what follows moves."""
    old = {name: work / f"old-{place}" for place, name in enumerate(names)}
    debugfs(disk, [f"dump {quoted(name)} {path}" for name, path in old.items()])
    commands = []
    for name, path in old.items():
        content = path.read_bytes()
        cut = chance.randrange(1 + len(content) // 8)
        path.write_bytes(content[:cut] + chance.randbytes(chance.randrange(1, 512)) + content[cut:])
        folder, base = os.path.split(name)
        commands += [f"rm {quoted(name)}", f"cd {quoted(folder)}", f"write {path} {quoted(base)}"]
    debugfs(disk, commands, write=True)


def debugfs(disk: Path, commands: Sequence[str], *, write: bool = False) -> str:
    """Run debugfs commands on the partition of `disk` and return what they print (each after its own echo)."""
    with tempfile.NamedTemporaryFile("w", prefix="debugfs-", dir=disk.parent) as script:
        script.write("".join(f"{command}\n" for command in commands))
        script.flush()
        mode = ["-w"] if write else []
        return run("debugfs", *mode, "-f", script.name, f"{disk}?offset={PARTITION_OFFSET}")


def quoted(path: str) -> str:
    """Return `path` as one argument of a debugfs command."""
    return f'"{path}"'


def run(*command: object) -> str:
    """Run a tool and return its standard output; raise RuntimeError with the last words of one that fails."""
    words = [str(word) for word in command]
    # The sbin folders hold mke2fs and debugfs and are not on the path of an ordinary user of Debian.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    environment = dict(os.environ, LC_ALL="C", PATH=path, E2FSPROGS_FAKE_TIME=CLOCK, DEBUGFS_PAGER="__none__")
    program = shutil.which(words[0], path=path)
    if program is None:
        raise FileNotFoundError(f"{words[0]} is not installed (Debian packages e2fsprogs and qemu-utils)")
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
