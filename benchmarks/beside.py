"""Measuring a thing beside its baseline: in turns, in the same run, so that a noisy machine disturbs both alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

THREADS = 2
"""How many threads work in measurements of whole paths; the baselines use as many."""

Nothing = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio that was asked for. `sense` says which side of `value` is good."""

    text: str
    sense: Literal["at least", "at most"]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a comparison found. Rates are in bytes per second, from the medians; None where bytes mean nothing.

    `ratio` compares medians and `ratio_best` the quickest rounds: rates for work over bytes, else seconds. `ratio_cpu`
    compares medians of processor time, which other programs disturb less, and which leaves out waiting; None where the
    work is done by other processes.
    """

    name: str
    rate: float | None
    baseline: str
    baseline_rate: float | None
    ratio: float
    ratio_best: float
    ratio_cpu: float | None = None
    goal: Goal | None

    def info(self) -> dict[str, object]:
        """Return the fields as pytest-benchmark keeps them."""
        fields = asdict(self)
        del fields["goal"]
        if self.goal is not None:
            fields |= {"goal": self.goal.text, "goal_sense": self.goal.sense, "goal_value": self.goal.value}
        return fields


class Beside:
    """The fixture of every benchmark here: `benchmark` of pytest-benchmark, with a baseline before each round."""

    def __init__(self, benchmark: Any, results: list[Result]) -> None:
        self._benchmark = benchmark
        self._results = results

    def __call__(
        self,
        subject: Nothing,
        baseline: Nothing,
        *,
        named: str,
        size: int | None = None,
        baseline_size: int | None = None,
        goal: Goal | None = None,
        rounds: int = 9,
        before: Nothing | None = None,
        elsewhere: bool = False,
    ) -> Result:
        """Time `subject` and, before each of its rounds, `baseline`, which is called `named` in reports.

        `size` is how many bytes the subject works on, `baseline_size` how many the baseline (the same, unless given):
        the ratio is then one of rates. Without a size it is subject's seconds over baseline's. `before` prepares a
        round. `elsewhere` says that other processes do the work, whose processor time is not known here.
        """
        baseline_times: list[float] = []
        baseline_cpu: list[float] = []
        subject_cpu: list[float] = []
        baseline()

        def turn() -> None:
            if before is not None:
                before()
            started, started_cpu = time.perf_counter(), time.process_time()
            baseline()
            baseline_times.append(time.perf_counter() - started)
            baseline_cpu.append(time.process_time() - started_cpu)

        def timed() -> None:
            started_cpu = time.process_time()
            subject()
            subject_cpu.append(time.process_time() - started_cpu)

        self._benchmark.pedantic(timed, setup=turn, rounds=rounds, iterations=1, warmup_rounds=1)
        times = self._benchmark.stats.stats.sorted_data if self._benchmark.stats else baseline_times
        baseline_times = baseline_times[1:] or baseline_times  # the first is the warming up
        scale = None if size is None else size / (baseline_size or size)
        result = Result(
            name=self._benchmark.name.removeprefix("test_"),
            rate=None if size is None else size / median(times),
            baseline=named,
            baseline_rate=None if size is None else (baseline_size or size) / median(baseline_times),
            ratio=ratio(median(times), median(baseline_times), scale),
            ratio_best=ratio(min(times), min(baseline_times), scale),
            ratio_cpu=None if size is None or elsewhere else ratio(median(subject_cpu), median(baseline_cpu), scale),
            goal=goal,
        )
        self.note(result)
        return result

    def note(self, result: Result) -> None:
        """Keep a result for the reports."""
        self._benchmark.extra_info.update(result.info())
        self._results.append(result)

    def once(self, subject: Callable[[], float], *, named: str, goal: Goal) -> None:
        """Run `subject`, which finds the ratio to the bound called `named` on its own, and keep that."""
        found = self._benchmark.pedantic(subject, rounds=1, iterations=1)
        name = self._benchmark.name.removeprefix("test_")
        self.note(
            Result(
                name=name, rate=None, baseline=named, baseline_rate=None, ratio=found, ratio_best=found, goal=goal
            )
        )  # fmt: skip


def ratio(seconds: float, baseline_seconds: float, scale: float | None) -> float:
    """Return the ratio of rates over `scale` times as many bytes as the baseline's; without a scale that of seconds."""
    return seconds / baseline_seconds if scale is None else baseline_seconds / seconds * scale


def on_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Run ``work(number)`` in `count` threads and wait for them; raises the first failure."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    crew = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for member in crew:
        member.start()
    for member in crew:
        member.join()
    if failures:
        raise failures[0]
