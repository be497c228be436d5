"""A full disk: one clear line, exit code 1, the store as it was, and everything still readable."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disks import MIB

IN_TMPFS = """
set -e
mount -t tmpfs -o size=24m none "$1"
cd "$1"
python=$2 big=$3 small=$4
"$python" -m dataplane init store
"$python" -m dataplane import store "$small" --name small
before=$(find store -type f ! -name '*-shm' ! -name '*-wal' | sort | xargs ls -l --time-style=+)
set +e
"$python" -m dataplane import store "$big" --name big --progress none 2>error
echo "code $?"
echo "lines $(wc -l <error)"
cat error >&2
set -e
after=$(find store -type f ! -name '*-shm' ! -name '*-wal' | sort | xargs ls -l --time-style=+)
[ "$before" = "$after" ] && echo unchanged
"$python" -m dataplane export store small out.raw --progress none
cmp out.raw "$small" && echo readable
"$python" -m dataplane rm store small && echo removable
"""


def in_namespace(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount: as root of a new mount namespace, which needs no root outside."""
    return subprocess.run(
        ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c", script, "sh"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_import_on_a_full_tmpfs_changes_nothing(tmp_path: Path) -> None:
    if in_namespace("mount -t tmpfs none /mnt").returncode != 0:
        pytest.skip("this kernel lets neither this user nor a user namespace mount a tmpfs")
    (tmp_path / "big.raw").write_bytes(os.urandom(64 * MIB))
    (tmp_path / "small.raw").write_bytes(os.urandom(2 * MIB))
    (tmp_path / "mnt").mkdir()
    done = in_namespace(IN_TMPFS, tmp_path / "mnt", sys.executable, tmp_path / "big.raw", tmp_path / "small.raw")
    assert done.returncode == 0, done.stderr
    assert "code 1\nlines 1\n" in done.stdout, done.stdout + done.stderr
    assert "no space left" in done.stderr
    for fact in ("unchanged", "readable", "removable"):
        assert fact in done.stdout, done.stdout + done.stderr


def test_import_past_the_file_size_limit_changes_nothing(tmp_path: Path) -> None:
    """EFBIG instead of ENOSPC: needs no mount."""
    store = tmp_path / "store"
    (tmp_path / "big.raw").write_bytes(os.urandom(48 * MIB))
    subprocess.run([sys.executable, "-m", "dataplane", "init", str(store)], check=True, capture_output=True)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 * MIB, 16 * MIB))

    done = subprocess.run(
        [sys.executable, "-m", "dataplane", "import", str(store), str(tmp_path / "big.raw"), "--name", "big"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no space left" in done.stderr
    assert [path for folder in ("packs", "runs") for path in (store / folder).rglob("*")] == []
    assert [path.name for path in (store / "tmp").iterdir()] == ["lock"]
    listed = subprocess.run(
        [sys.executable, "-m", "dataplane", "ls", str(store), "--json"], capture_output=True, check=True
    )
    assert json.loads(listed.stdout) == []
