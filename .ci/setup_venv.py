"""Makes .venv and installs this project into it, editable, with its development tools; does nothing when that is done.

What decides is a fingerprint of everything the installation is made from, kept in .venv/fingerprint. Standard library
only, and any Python 3: it has to run before there is anything else.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
FINGERPRINT = VENV / "fingerprint"
NATIVE = ROOT / "dataplane" / "_native"
STUBS = ROOT / "service" / "_pb"
SWITCHES = ("DATAPLANE_DEBUG", "DATAPLANE_ANNOTATE", "DATAPLANE_SANITIZE", "CC", "CFLAGS", "LDFLAGS")


def main() -> None:
    """Bring .venv up to date, or stop with a line that says why that cannot be."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file also meets Pythons that the project does not accept
        found = f"{sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(f"setup: Python 3.11 or newer is needed, {found}; try make PYTHON=/path/to/python3.11")
    wanted = fingerprint()
    if FINGERPRINT.exists() and FINGERPRINT.read_text() == wanted and complete():
        return
    FINGERPRINT.unlink(missing_ok=True)
    if not usable():
        say("making a virtual environment in .venv")
        # Not sys.executable: make may run inside the very environment that is to be made anew.
        base = getattr(sys, "_base_executable", None) or sys.executable
        run(base, "-m", "venv", "--clear", VENV, advice="is python3-venv installed?")
    say("installing the build tools")
    pip("install", *build_requirements())
    say("building the kernels and installing the project with its development tools (once, a minute or two)")
    for module in NATIVE.glob("*.so"):
        module.unlink()
    # "compat" puts the checkout itself on the path; the default hooks into every start of Python, which then takes
    # twice as long.
    pip("install", "--no-build-isolation", "--config-settings", "editable_mode=compat", "--editable", f"{ROOT}[dev]")
    FINGERPRINT.write_text(wanted)


def fingerprint() -> str:
    """Return a digest of the sources, the switches, this Python and the place of the checkout."""
    digest = hashlib.sha256(f"{ROOT} {sys.version} {[os.environ.get(name) for name in SWITCHES]}".encode())
    files = [Path(__file__), ROOT / "setup.py", ROOT / "pyproject.toml"]
    files += [path for folder in ("ext", "proto") for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    files += sorted(NATIVE.glob("*.pxd"))
    for path in files:
        digest.update(f"{path} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def complete() -> bool:
    """Return True when nothing that a build makes was removed since."""
    kernels = {path.stem for path in (ROOT / "ext").glob("*.pyx")}
    built = {path.name.partition(".")[0] for path in NATIVE.glob("*.so")}
    return kernels <= built and (STUBS.exists() or not any((ROOT / "proto").rglob("*.proto")))


def usable() -> bool:
    """Return True when .venv works, was made here (its scripts name their place) and with this version of Python."""
    config = VENV / "pyvenv.cfg"
    if not config.exists() or str(VENV) not in config.read_text():
        return False
    program = "import sys, pip; print(sys.version)"
    probe = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=False)
    return probe.returncode == 0 and probe.stdout.strip() == sys.version.strip()


def build_requirements() -> list[str]:
    """Return what pyproject.toml names under [build-system]."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        requires: list[str] = tomllib.load(file)["build-system"]["requires"]
    return requires


def pip(*arguments: str) -> None:
    """Run pip of .venv, silent unless it fails."""
    run(PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(*command: object, advice: str = "the lines above say why") -> None:
    """Run a command; show what it printed and stop when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        sys.stderr.flush()
        sys.stderr.buffer.write(done.stdout)
        sys.exit(f"setup: this failed ({advice}): {' '.join(words)}")


def say(text: str) -> None:
    """Tell what is going on."""
    sys.stderr.write(f"setup: {text}\n")


if __name__ == "__main__":
    main()
