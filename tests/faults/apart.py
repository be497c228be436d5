"""Runs a judge in a process of its own: whatever it opened, mapped or left in a traceback goes with that process."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def apart(judge: Callable[..., object], *args: object) -> None:
    """Call `judge` in a forked process; raises AssertionError with its traceback when it failed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            judge(*args)
            code = 0
        except BaseException:
            os.write(write_end, traceback.format_exc().encode()[-60_000:])  # less than a pipe holds
        finally:
            os._exit(code)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == 0, told or f"the judge ended with {code}"
