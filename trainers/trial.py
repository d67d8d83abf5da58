"""A trial: one training, its evaluation and its probes, from a spec and images to a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import nn

from trainers.checkpoint import Checkpoint
from trainers.evaluate import Evaluation, EvaluationSpec, evaluate, metric_of
from trainers.families import Report
from trainers.features import head_of
from trainers.images import Extent, Images
from trainers.last_batch import check_last_batch
from trainers.loop import Trained, arithmetic_of, fit, generator, initial_weights, memory_named, summary
from trainers.numerical_platform import PlatformRecord
from trainers.pgd import Frozen
from trainers.precision import Arithmetic
from trainers.probe import ProbeRun, Row, Subject, Watch, check_probe_inputs, check_probes
from trainers.provenance import environment
from trainers.recipe import Precision, TrainSpec, repeatable
from trainers.redaction import redacted_data
from trainers.spec import InputError, Spec, plain
from trainers.start import Kept, begin_from

METRICS = (
    "test/clean_acc",
    "test/peak_clean_acc",
    "test/peak_epoch",
    "train/acc",
    "train/loss",
    "train/unaugmented_acc",
)


class Trial(Spec):
    """One training and its evaluation, on images that the caller provides."""

    train: TrainSpec = TrainSpec()
    """How the network is trained."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How the trained network is evaluated."""
    seed: int = 0
    """Seed of initial weights, order of the images, augmentations and attacks."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the numbers that its record will hold."""
        return METRICS + tuple(metric_of(attack) for attack in self.evaluation.attacks)

    def check(self, train: Extent, test: Extent) -> None:
        """InputError if a training on images of these extents, or its evaluation, is impossible. `test` is
        the extent of all test images."""
        if (train.shape, train.num_classes) != (test.shape, test.num_classes):
            raise InputError(
                f"training images are {train.shape} in {train.num_classes} classes, "
                f"test images {test.shape} in {test.num_classes}; they must agree"
            )
        if not train.images:
            raise InputError("there are no images to train on: take some")
        self.train.check(train)
        check_last_batch(self.train.architecture, train, self.train.batch_size)
        self.evaluation.check(test)

    def run(
        self,
        train: Images,
        test: Images,
        *,
        device: torch.device,
        report: Report = lambda _: None,
        checkpoint: Checkpoint | None = None,
        probe_runs: Sequence[ProbeRun] = (),
        restored: bool = False,
        kept: Kept | None = None,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The trained network and its record, as JSON types. `report` receives each epoch's row. With
        `probe_runs` the record also has their findings, as `run_probes` returns them, under `findings`;
        nothing else in it changes. `restored` says that the restoration of the defense has restored `train`
        already; `kept` gives the weights of other trials, which the start may name.

        Raises what `fit` does, and InputError if the images, or the probes' sets, do not belong together.
        """
        trained, record = self.train_and_evaluate(
            train,
            test,
            device=device,
            report=report,
            checkpoint=checkpoint,
            probe_runs=probe_runs,
            restored=restored,
            kept=kept,
        )
        found = self.run_probes(
            trained.model,
            trained.images,
            test,
            probe_runs,
            device=device,
            history=trained.history,
            watched=trained.watched,
        )
        return trained.model, record | ({"findings": found} if probe_runs else {})

    def train_and_evaluate(
        self,
        train: Images,
        test: Images,
        *,
        device: torch.device,
        report: Report = lambda _: None,
        checkpoint: Checkpoint | None = None,
        probe_runs: Sequence[ProbeRun] = (),
        restored: bool = False,
        kept: Kept | None = None,
    ) -> tuple[Trained, dict[str, Any]]:
        """`run` without running the probes. What they watch during the training is in `Trained.watched`, for
        `run_probes`."""
        self.check(train.extent, test.extent)
        for attack in self.evaluation.attacks:
            attack.check_ready()
        check_probes(probe_runs, test)
        spec, test = self.train, test.subset(self.evaluation.limit)
        check_probe_inputs(probe_runs, spec, train, test)
        arithmetic = self._arithmetic(train, test, device)
        trained = fit(
            spec,
            train,
            test,
            seed=self.seed,
            device=device,
            report=report,
            checkpoint=checkpoint,
            watches=self._watches(probe_runs, test, device, kept),
            arithmetic=arithmetic,
            restored=restored,
            start=initial_weights(spec, train, kept),
        )
        begun = time.monotonic()
        with memory_named(spec, train, device), repeatable(), arithmetic.autocast(device):
            evaluation = self._evaluated(trained, test, device)
        return trained, {
            "spec": redacted_data(plain(self)),
            "metrics": summary(trained.history) | evaluation.metrics,
            "per_class_acc": evaluation.per_class,
            **({"attacks": evaluation.attacks} if evaluation.attacks else {}),
            "warnings": [
                *([arithmetic.fallback] if arithmetic.fallback else []),
                *_platform_warnings(trained.platforms),
                *evaluation.warnings,
                *(checkpoint.warnings if checkpoint else []),
            ],
            "history": trained.history,
            "parameters": sum(p.numel() for p in trained.model.parameters()),
            "seconds": round(trained.seconds + time.monotonic() - begun, 3),
            **_computed_on(device, arithmetic, trained.platforms),
            "environment": environment(),
        }

    def _evaluated(self, trained: Trained, test: Images, device: torch.device) -> Evaluation:
        return evaluate(
            trained.model,
            trained.images,
            test,
            self.evaluation,
            gen=generator(device, self.seed, 0),
            batch_size=self.train.batch_size,
            memorises=self._memorises,
            defense=self.train.defense,
        )

    @property
    def _memorises(self) -> bool:
        """Whether the training should fit every image in the end."""
        spec = self.train
        return spec.defense.memorises and spec.architecture.memorises and spec.trains_all

    def run_probes(
        self,
        model: nn.Module,
        train: Images,
        test: Images,
        probe_runs: Sequence[ProbeRun],
        *,
        device: torch.device,
        history: Sequence[Row],
        watched: Mapping[str, Sequence[Row]] | None = None,
    ) -> dict[str, Any]:
        """The findings of each probe on this trial's trained network, which is on `device`, as JSON types by
        name: `metrics`, `curves`, `fields`, and the `seconds` that it took.

        `train` are the images that it was trained on, `Trained.images`. `history` is that of the training;
        `watched` holds, by probe key, the rows of probes that watch. A network loaded from a file has no such
        rows, so a probe that watches is an InputError there.
        """
        check_probes(probe_runs, test)
        watched, test = watched or {}, test.subset(self.evaluation.limit)
        late = [run for run in probe_runs if run.probe.watches and run.probe.key not in watched]
        if late:
            raise InputError(
                f"probe {late[0].name!r}: {late[0].probe.kind!r} watches every epoch, so final weights are "
                "not enough; train the trial again with it"
            )
        found, arithmetic = {}, self._arithmetic(train, test, device)
        with (
            memory_named(self.train, train, device),
            repeatable(),
            arithmetic.autocast(device),
            Frozen(model),
        ):
            for run in probe_runs:
                subject = Subject(
                    model=model,
                    untrained=lambda: self._untrained(test, device),
                    spec=self.train,
                    train=train,
                    test=test,
                    sets=run.sets,
                    history=history,
                    watched=watched.get(run.probe.key, ()),
                    seed=self.seed,
                    device=device,
                )
                begun = time.monotonic()
                finding = run.probe.run(subject)
                seconds = round(time.monotonic() - begun, 3)
                found[run.name] = vars(finding) | {"seconds": seconds, "precision": arithmetic.precision}
        return found

    def _arithmetic(self, train: Images, test: Images, device: torch.device) -> Arithmetic:
        """The arithmetic of this trial on `device`, checked for its evaluation too; `test` is what it is
        evaluated on."""
        limit = self.evaluation.attack_limit or len(test)
        attacked = min(limit, len(test)) if self.evaluation.attacks else 0
        with memory_named(self.train, train, device):
            return arithmetic_of(self.train, train, test, device, attacked=attacked)

    def _watches(
        self, probe_runs: Sequence[ProbeRun], test: Images, device: torch.device, kept: Kept | None
    ) -> dict[str, Watch]:
        """The watch functions of all probes that watch, by the probe's key."""
        probes = {run.probe.key: run.probe for run in probe_runs if run.probe.watches}
        return {
            key: probe.watch(self._initial(test, device, kept), test, device) for key, probe in probes.items()
        }

    def _initial(self, like: Images, device: torch.device, kept: Kept | None = None) -> nn.Module:
        """The network as it is before the first step, in eval mode."""
        network = self.train.network(num_classes=like.num_classes, shape=like.shape, seed=self.seed)
        if (start := initial_weights(self.train, like, kept)) is not None:
            begin_from(start, network, head=head_of(network, like), source="start")
        return _ready(network, device)

    def _untrained(self, like: Images, device: torch.device) -> nn.Module:
        """The network with the random weights of this seed, whatever it starts from, in eval mode."""
        network = self.train.network(num_classes=like.num_classes, shape=like.shape, seed=self.seed)
        return _ready(network, device)


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


class ComputedOn(TypedDict):
    """Where and in which arithmetic a trial was computed: a part of its record."""

    device: str
    precision: Precision
    precision_fallback: str | None
    threads: int
    platform: PlatformRecord
    platforms_before: list[PlatformRecord]  # of the epochs before it was resumed elsewhere


def _computed_on(
    device: torch.device, arithmetic: Arithmetic, platforms: Sequence[PlatformRecord]
) -> ComputedOn:
    return ComputedOn(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=arithmetic.precision,
        precision_fallback=arithmetic.fallback,
        threads=torch.get_num_threads(),
        platform=platforms[-1],
        platforms_before=list(platforms[:-1]),
    )


def _platform_warnings(platforms: Sequence[PlatformRecord]) -> list[str]:
    """A warning for a training that was resumed on another numerical platform."""
    names = list(dict.fromkeys(str(platform["name"]) for platform in platforms))
    if len(names) < 2:
        return []
    return [f"trained on {len(names)} numerical platforms, one after another: {'; then '.join(names)}"]
