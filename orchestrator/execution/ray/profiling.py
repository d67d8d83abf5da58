"""Ray tasks that profile trials on a GPU, one for each shape that is not known yet."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field

import ray
import torch
from ray.exceptions import RayError
from ray.util.queue import Queue

from orchestrator.estimates.shares import Measured
from orchestrator.execution.requests import Claims, Request
from orchestrator.planning.extents import Extents
from orchestrator.storage.trial_spec import TrialSpec
from poisons.sources.base import Extent
from trainers.gpu_profile import GpuProfile, profile_trial
from trainers.spec import plain
from trainers.stored import OBJECT


@dataclass
class Profiles:
    """The profiling tasks of a sweep: each has a GPU to itself, and they take precedence over trials."""

    shares: Measured
    extents: Extents
    cpus: float
    refs: dict[ray.ObjectRef, str] = field(default_factory=dict)
    begun: Queue = field(default_factory=lambda: Queue(actor_options={"num_cpus": 0}))  # shapes
    running: set[str] = field(default_factory=set)

    @property
    def claimed(self) -> Claims:
        """The resources that they hold or wait for."""
        one = (Request(self.cpus, 1.0),)
        found = (Claims(one) if shape in self.running else Claims((), one) for shape in self.refs.values())
        return sum(found, Claims())

    def poll(self) -> None:
        """Start the profiling tasks that are needed, and collect results."""
        submitted = set(self.refs.values())
        for shape, task in self.shares.wanted.items():
            if shape not in submitted:
                ask = _profile.options(name=f"profile-{shape}", num_gpus=1, num_cpus=self.cpus)
                trial = json.dumps(plain(task.trial))
                self.refs[ask.remote(trial, self.extents.of(task.trial.data), shape, self.begun)] = shape
        try:
            self.running.update(self.begun.get_nowait_batch(self.begun.qsize()))
        except RayError:  # the queue's actor died with its node
            self.running.update(self.refs.values())
        ready, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0) if self.refs else ([], [])
        for ref in ready:
            shape = self.refs.pop(ref)
            try:
                self.shares.measured(shape, *ray.get(ref))
            except (RayError, OSError):  # if its trials fail for the same reason, they report it
                self.shares.unknown(shape)


@ray.remote(max_retries=1, max_calls=1)  # its process ends with the task, which frees its GPU memory
def _profile(trial: str, train: Extent, shape: str, begun: Queue) -> tuple[GpuProfile, int]:
    """The profile of a trial, and the memory of the GPU in bytes."""
    with suppress(RayError):
        begun.put(shape)
    spec, device = TrialSpec.parse(OBJECT.read(trial.encode()), "trial"), torch.device("cuda")
    found = profile_trial(spec, train.shape, train.num_classes, train.images, device)
    return found, torch.cuda.get_device_properties(device).total_memory
