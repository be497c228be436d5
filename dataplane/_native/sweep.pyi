"""The sweep: threads claim ranges of a plan and read, scan and count them in one native loop, for analysis."""

from dataplane._native.plan import Plan
from dataplane._native.table import DigestTable
from dataplane._native.walk import Walk

class Sweep(Walk):
    """One plan, shared by the threads that sweep it; each brings its own Window."""

    def __init__(self, plan: Plan, table: DigestTable, fds: list[int], claim_size: int) -> None: ...
    @property
    def data_chunks(self) -> int: ...
    @property
    def data_bytes(self) -> int: ...
    @property
    def zero_chunks(self) -> int: ...
    @property
    def distinct_chunks(self) -> int: ...
    @property
    def allocated_bytes(self) -> int: ...
