"""A simulation of list scheduling on equal slots: what would run when. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A piece of work that occupies one slot for some seconds, after the jobs that it needs. What it needs
    and is not a job is there already."""

    name: str
    seconds: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """When a job runs, in seconds from the start."""

    start: float
    end: float


def play(jobs: Sequence[Job], slots: int) -> dict[str, Span]:
    """When each job runs if a free slot takes the first job of the list that can start. Jobs that need
    each other in a cycle never run and are missing from the result."""
    names = {job.name for job in jobs}
    left = {job.name: len(names.intersection(job.needs)) for job in jobs}
    after: dict[str, list[int]] = {}
    for i, job in enumerate(jobs):
        for need in set(job.needs):
            after.setdefault(need, []).append(i)
    ready = [i for i, job in enumerate(jobs) if not left[job.name]]
    running: list[tuple[float, int]] = []
    spans: dict[str, Span] = {}
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            i = heapq.heappop(ready)
            spans[jobs[i].name] = Span(now, now + jobs[i].seconds)
            heapq.heappush(running, (now + jobs[i].seconds, i))
        now, ended = heapq.heappop(running)
        for i in after.get(jobs[ended].name, ()):
            left[jobs[i].name] -= 1
            if not left[jobs[i].name]:
                heapq.heappush(ready, i)
    return spans


def makespan(jobs: Sequence[Job], slots: int) -> float:
    """Seconds from the first start to the last end; 0 without jobs."""
    return max((span.end for span in play(jobs, slots).values()), default=0.0)
