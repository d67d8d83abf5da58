"""A trial: one training, its evaluation and the looks at it, from a spec and images to a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import nn

from trainers.checkpoint import Checkpoint
from trainers.evaluate import EvaluationSpec, evaluate, metric_of
from trainers.images import Extent, Images
from trainers.last_batch import check_last_batch
from trainers.loop import (
    Report,
    Trained,
    arithmetic_of,
    fit,
    generator,
    memory_named,
    summary,
)
from trainers.numerical_platform import PlatformRecord
from trainers.pgd import Frozen
from trainers.precision import Arithmetic
from trainers.probe import Look, Row, Subject, Watch, check_looks, check_prospects
from trainers.provenance import environment
from trainers.recipe import Precision, TrainSpec, repeatable
from trainers.redaction import redacted_data
from trainers.spec import InputError, Spec, plain

METRICS = (
    "test/clean_acc",
    "test/peak_clean_acc",
    "test/peak_epoch",
    "train/acc",
    "train/loss",
    "train/unaugmented_acc",
)


class Trial(Spec):
    """One training and its evaluation, on images that somebody else chooses: of the test images, a
    class-balanced `evaluation.limit`."""

    train: TrainSpec = TrainSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the numbers that its record will hold."""
        return METRICS + tuple(metric_of(attack) for attack in self.evaluation.attacks)

    def check(self, train: Extent, test: Extent) -> None:
        """InputError if a training on images of these extents, or its evaluation, cannot be carried out.
        `test` is all of the test images that there are."""
        if (train.shape, train.num_classes) != (test.shape, test.num_classes):
            raise InputError(
                f"training images are {train.shape} in {train.num_classes} classes, "
                f"test images {test.shape} in {test.num_classes}; they must agree"
            )
        if not train.images:
            raise InputError("there are no images to train on: take some")
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
        looks: Sequence[Look] = (),
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The trained network and its record, as JSON types; `report` is given each epoch's row. Of `looks`,
        which change nothing else in it, the record has the findings as `look_at` gives them.

        Raises what `fit` does, and InputError if the images, those of the looks too, do not belong together.
        """
        trained, record = self.judged(
            train, test, device=device, report=report, checkpoint=checkpoint, looks=looks
        )
        found = self.look_at(
            trained.model, train, test, looks, device=device, history=trained.history, watched=trained.watched
        )
        return trained.model, record | ({"looks": found} if looks else {})

    def judged(
        self,
        train: Images,
        test: Images,
        *,
        device: torch.device,
        report: Report = lambda _: None,
        checkpoint: Checkpoint | None = None,
        looks: Sequence[Look] = (),
    ) -> tuple[Trained, dict[str, Any]]:
        """Like `run`, before anything is looked at: what `looks` watch is in `Trained.watched`, for
        `look_at`."""
        self.check(train.extent, test.extent)
        for attack in self.evaluation.attacks:
            attack.check_ready()
        check_looks(looks, test)
        spec, test = self.train, test.subset(self.evaluation.limit)
        check_prospects(looks, spec, train, test)
        arithmetic = self._arithmetic(train, test, device)
        trained = fit(
            spec,
            train,
            test,
            seed=self.seed,
            device=device,
            report=report,
            checkpoint=checkpoint,
            watches=self._watches(looks, test, device),
            arithmetic=arithmetic,
        )
        start = time.monotonic()
        memorises = spec.defense.memorises and spec.architecture.memorises
        with memory_named(spec, train, device), repeatable(), arithmetic.autocast(device):
            seen = evaluate(
                trained.model,
                train,
                test,
                self.evaluation,
                gen=generator(device, self.seed, 0),
                batch_size=spec.batch_size,
                memorises=memorises,
            )
        return trained, {
            "spec": redacted_data(plain(self)),
            "metrics": summary(trained.history) | seen.metrics,
            "per_class_acc": seen.per_class,
            **({"attacks": seen.attacks} if seen.attacks else {}),
            "warnings": [
                *([arithmetic.fallback] if arithmetic.fallback else []),
                *_moved(trained.platforms),
                *seen.warnings,
                *(checkpoint.warnings if checkpoint else []),
            ],
            "history": trained.history,
            "parameters": sum(p.numel() for p in trained.model.parameters()),
            "seconds": round(trained.seconds + time.monotonic() - start, 3),
            **_computed_on(device, arithmetic, trained.platforms),
            "environment": environment(),
        }

    def look_at(
        self,
        model: nn.Module,
        train: Images,
        test: Images,
        looks: Sequence[Look],
        *,
        device: torch.device,
        history: Sequence[Row],
        watched: Mapping[str, Sequence[Row]] | None = None,
    ) -> dict[str, Any]:
        """What each look finds at this trial's trained network, which lies on `device`, as JSON types by its
        name: `metrics`, `curves`, `fields`, and the `seconds` that it took.

        `history` is the training's; `watched` holds by key what probes that watch said of each epoch, so a
        network from a file is looked at only with probes that do not: others are an InputError.
        """
        check_looks(looks, test)
        watched, test = watched or {}, test.subset(self.evaluation.limit)
        late = [look for look in looks if look.probe.watches and look.probe.key not in watched]
        if late:
            raise InputError(
                f"look {late[0].name!r}: {late[0].probe.kind!r} watches every epoch, so it cannot look at "
                "weights alone; train the trial again with it"
            )
        found, arithmetic = {}, self._arithmetic(train, test, device)
        with (
            memory_named(self.train, train, device),
            repeatable(),
            arithmetic.autocast(device),
            Frozen(model),
        ):
            for look in looks:
                subject = Subject(
                    model=model,
                    initial=lambda: self._initial(test, device),
                    spec=self.train,
                    train=train,
                    test=test,
                    sets=look.sets,
                    history=history,
                    watched=watched.get(look.probe.key, ()),
                    seed=self.seed,
                    device=device,
                )
                start = time.monotonic()
                finding = look.probe.look(subject)
                seconds = round(time.monotonic() - start, 3)
                found[look.name] = vars(finding) | {"seconds": seconds, "precision": arithmetic.precision}
        return found

    def _arithmetic(self, train: Images, test: Images, device: torch.device) -> Arithmetic:
        """What this trial's precision comes to, for its evaluation too; `test` has what is evaluated on."""
        limit = self.evaluation.attack_limit or len(test)
        attacked = min(limit, len(test)) if self.evaluation.attacks else 0
        with memory_named(self.train, train, device):
            return arithmetic_of(self.train, train, test, device, attacked=attacked)

    def _watches(self, looks: Sequence[Look], test: Images, device: torch.device) -> dict[str, Watch]:
        """The watches of all looks that have one, by their probe's key."""
        probes = {look.probe.key: look.probe for look in looks if look.probe.watches}
        return {key: probe.watch(self._initial(test, device), test, device) for key, probe in probes.items()}

    def _initial(self, like: Images, device: torch.device) -> nn.Module:
        """The network as it is before the first step, in eval mode."""
        network = self.train.architecture.network(
            num_classes=like.num_classes, shape=like.shape, seed=self.seed
        )
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


def _moved(platforms: Sequence[PlatformRecord]) -> list[str]:
    """A warning for a training that went on on another numerical platform than it began on."""
    names = list(dict.fromkeys(str(platform["name"]) for platform in platforms))
    if len(names) < 2:
        return []
    return [f"trained on {len(names)} numerical platforms, one after another: {'; then '.join(names)}"]
