"""Which training images explain a prediction: rankings by distance of features and by exemplar SVMs (Singla,
Sandoval-Segura, Goldblum, Geiping, Goldstein; 2023, arXiv 2311.03386), and trainings without those images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt, field_validator
from torch import Tensor, nn

from trainers.defenses.chain import Chain
from trainers.families import Defense
from trainers.features import features, last_layer
from trainers.flops import Work, tested, training_work
from trainers.images import Extent, Images, nearest_levels, to_float
from trainers.loop import fit, generator
from trainers.pictured import pictured, rounded
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, ImageMaps, ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import InputError

STREAM = 97  # first part of every random stream here, after the seed
METHODS = ("distance", "svm", "random")  # whose images are removed
RANKED = (*METHODS, "class")  # which are correlated with outputs
SHOWN = 3  # training images beside each pictured test image
STORED = ("distance", "svm")  # whose scores are kept
DIGITS = 6  # significant ones, of a score that is kept


class Attribution(Probe, kind="attribution", version=2):  # 2: it keeps scores
    """Ranks the training images of a test image's class: by the distance of their features, by an exemplar
    SVM (the test image against the class), and as a control at random.

    Metrics: `nearest_acc`, the share of test images whose nearest training image has their class. For each
    set, which is the training images in another state, such as `sets: {clean: {poison: clean}}`:
    `<set>_changed`, the share of training images that differ from it, and `<set>_changed_near`, that among
    the `neighbours` nearest to test images. With `removals`, the curve of each
    method is the share of test images, of those that were right, that are wrong after a training without the
    first so many images of its ranking; `<method>_flipped` is its last number. With `subsets`, `<method>_lds`
    is the linear datamodeling score: the rank correlation between a test image's logit of its class, in
    networks trained on random halves, and the sum of the scores in that half. Compare it with `class_lds`,
    for which all images of the class count alike, and others not: it is high too.

    Features are standardised for the SVM, and a last batch of one image is left out of a training.

    Fields: `targets` are the rows of the test images, `scores` a number for each training image (row) and
    test image (column) by distance and by SVM: above 0 within the test image's class, the higher the more it
    counts, and 0 elsewhere. Every removal is a training of `epochs` epochs for each of three methods and each
    test image, and so is every subset: `removals: [8, 32]` of ten test images are 60 trainings.
    """

    targets: PositiveInt = 10
    """Size of the class-balanced subset of the test images that is explained."""
    neighbours: PositiveInt = 10
    """Nearest training images of any class among which poisoned ones are counted."""
    removals: tuple[PositiveInt, ...] = ()
    """Numbers of training images to remove, ascending; each is a training for every method and test image."""
    subsets: NonNegativeInt = 0
    """Random halves of the training images to train on, for the linear datamodeling score; 50 or more."""
    epochs: PositiveInt = 10
    """Epochs of each of these trainings."""
    smoke: ClassVar[dict[str, Any]] = {"targets": 4, "removals": [2], "subsets": 3, "epochs": 1}

    @field_validator("subsets")
    @classmethod
    def _enough_to_correlate(cls, subsets: int) -> int:
        if subsets == 1:
            raise ValueError("a rank correlation needs two halves or more, found 1; write 50, or 0 for none")
        return subsets

    @property
    def metrics(self) -> tuple[str, ...]:
        flipped = tuple(f"{method}_flipped" for method in METHODS) if self.removals else ()
        scores = tuple(f"{method}_lds" for method in RANKED) if self.subsets else ()
        return ("nearest_acc", *flipped, *scores)

    @property
    def per_set(self) -> tuple[str, ...]:
        return ("changed", "changed_near")

    def view(self, sets: Sequence[str]) -> ProbeView:
        shares = ["nearest_acc", *(f"{name}_{ending}" for name in sets for ending in self.per_set)]
        for method in METHODS if self.removals else ():
            shares += [method, f"{method}_flipped"]
        picture = ImageMaps(
            kind="image_maps",
            shows="Test images, wrong ones first, the nearest training images, and how far their pixels are "
            "from those of the test image.",
            images="images",
        )
        return ProbeView(
            says=f"Which training images are near a test image, and whether its prediction changes without "
            f"them{self._sizes()}.",
            units=dict.fromkeys(shares, PERCENT),
            along="removal",
            picture=picture,
        )

    def _sizes(self) -> str:
        sizes = ", ".join(map(str, self.removals))
        return f": removals of {sizes} images" if sizes else ""

    def work(self, examined: Examined) -> Work:
        train, network, methods = examined.train.images, examined.network, len(METHODS)
        spec = examined.spec.model_copy(update={"epochs": self.epochs})
        seen = tested(train, network) + tested(self.targets, network)
        for size in self.removals:
            left = max(1, train - size)
            seen += training_work(spec, network, train=left, test=1) * (methods * self.targets)
        half = training_work(spec, network, train=train // 2, test=self.targets)
        return seen + half * self.subsets

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        if self.removals or self.subsets:
            self._check_retraining(spec, train)
        for name, images in sets.items():
            if images.images != train.images:
                raise InputError(
                    f"the set {name!r} of the probe {self.kind!r} must be the training images in another "
                    f"state: it has {images.images} images, not {train.images}"
                )

    def _check_retraining(self, spec: TrainSpec, train: Extent) -> None:
        """InputError if the training cannot be repeated without some of its images."""
        why = ""
        if prepares(spec.defense):
            why = f"the defense {spec.defense.kind!r} has prepared the images, and would prepare them twice"
        elif spec.start is not None:
            why = "it would begin with weights that the seed draws, and this training has a start"
        elif self.removals and self.removals[-1] > train.images - 2:
            why = f"there are {train.images} images, and {self.removals[-1]} are to be removed"
        if why:
            raise InputError(
                f"the probe {self.kind!r} cannot train again: {why}; change removals and subsets, or leave "
                "them out"
            )
        if list(self.removals) != sorted(set(self.removals)):
            raise InputError(f"removals must ascend, found {list(self.removals)}")

    def run(self, subject: Subject) -> Finding:
        device, train = subject.device, subject.train
        rows = chosen(subject.test, self.targets)
        targets = subject.test.take(rows.to(subject.test.y.device))
        layer = last_layer(subject.model, train, device, wanted_by=f"the probe {self.kind!r}")
        x, z = (features(subject.model, layer, one, device).double().cpu() for one in (train, targets))
        apart = torch.cdist(z, x)
        labels, classes = train.y.cpu(), targets.y.cpu()
        order = apart.argsort(stable=True, dim=1)
        found = {"nearest_acc": (labels[order[:, 0]] == classes).double().mean().item()}
        for name, images in subject.sets.items():
            changed = (
                (nearest_levels(train.x) != images.x.to(train.x.device)).flatten(1).any(1).cpu().double()
            )
            near = changed[order[:, : self.neighbours]]
            found |= {f"{name}_changed": changed.mean().item(), f"{name}_changed_near": near.mean().item()}
        scores = scored(x, labels, z, classes, apart, subject.seed)
        curves = self._removals(subject, targets, scores) if self.removals else {}
        found |= {f"{method}_flipped": curve[-1] for method, curve in curves.items()}
        if self.subsets:
            found |= self._correlations(subject, targets, scores)
        right = predicted(subject.model, targets, device) == classes
        fields = {
            "targets": rows.tolist(),
            "scores": {name: rounded(scores[name], DIGITS) for name in STORED},
            "images": self._pictures(targets, train, order, right),
        }
        return Finding(found, curves, fields)

    def _removals(
        self, subject: Subject, targets: Images, scores: dict[str, Tensor]
    ) -> dict[str, list[float]]:
        """For each method, the shares of wrong predictions without the first images of its rankings."""
        right = predicted(subject.model, targets, subject.device) == targets.y.cpu()
        known = right.nonzero().squeeze(1).tolist()
        curves = {}
        for method in METHODS:
            curves[method] = [
                self._flipped(subject, targets, scores[method], size, known) for size in self.removals
            ]
        return curves

    def _flipped(
        self, subject: Subject, targets: Images, score: Tensor, size: int, known: Sequence[int]
    ) -> float:
        """The share of these test images that are wrong after a training without their first images."""
        wrong = 0
        for t in known:
            first = score[:, t].argsort(stable=True, descending=True)[:size]
            kept = torch.ones(len(score), dtype=torch.bool)
            kept[first[score[first, t] > 0]] = False
            one = targets.take(torch.tensor([t], device=targets.y.device))
            model = self._trained(subject, kept.nonzero().squeeze(1), one)
            wrong += int(predicted(model, one, subject.device).item() != int(targets.y[t]))
        return wrong / max(1, len(known))

    def _correlations(self, subject: Subject, targets: Images, scores: dict[str, Tensor]) -> dict[str, float]:
        """The linear datamodeling score of each method (Ilyas et al. 2022, Park et al. 2023): the mean over
        test images; one whose outputs or sums are all equal counts as 0."""
        sums, outputs = [], []
        for i in range(self.subsets):
            gen = generator(torch.device("cpu"), subject.seed, STREAM, i)
            half = torch.randperm(len(subject.train), generator=gen)[: len(subject.train) // 2].sort().values
            model = self._trained(subject, half, targets)
            outputs.append(margins(model, targets, subject.device))
            sums.append({method: score[half].sum(0) for method, score in scores.items()})
        seen = torch.stack(outputs)
        return {
            f"{method}_lds": correlation(torch.stack([one[method] for one in sums]), seen)
            for method in RANKED
        }

    def _trained(self, subject: Subject, rows: Tensor, test: Images) -> nn.Module:
        """A network in eval mode, trained as the trial's on these training images."""
        spec = subject.spec.model_copy(update={"epochs": self.epochs})
        if len(rows) % spec.batch_size == 1:  # on which not every network can be trained
            rows = rows[:-1]
        some = subject.train.take(rows.to(subject.train.y.device))
        with torch.autocast(subject.device.type, enabled=False):  # `fit` enters its own
            trained = fit(spec, some, test, seed=subject.seed, device=subject.device, restored=True)
        return trained.model.eval()

    def _pictures(self, targets: Images, train: Images, order: Tensor, right: Tensor) -> list[dict[str, Any]]:
        """Two test images, wrong ones first, each with the nearest training images."""
        pictures = []
        for t in right.long().argsort(stable=True)[:2].tolist():
            target = to_float(targets.x[t : t + 1])[0].cpu()
            pictures.append(pictured(f"{int(targets.y[t])}, a test image", target, target))
            for row in order[t, :SHOWN].tolist():
                near = to_float(train.x[row : row + 1])[0].cpu()
                pictures.append(pictured(f"{int(train.y[row])}, near it", near, target))
        return pictures


def prepares(defense: Defense) -> bool:
    """Whether a defense changes the training images before the training."""
    if isinstance(defense, Chain):
        return any(map(prepares, defense.parts))
    return type(defense).prepare is not Defense.prepare


def chosen(images: Images, number: int) -> Tensor:
    """The rows of a class-balanced subset: as many of each class as there is room for, the first ones."""
    labels, rows = images.y.cpu(), list[int]()
    by_class = [(labels == k).nonzero().squeeze(1).tolist() for k in range(images.num_classes)]
    for turn in range(len(labels)):
        rows += [found[turn] for found in by_class if turn < len(found)]
        if len(rows) >= number:
            break
    return torch.tensor(sorted(rows[:number]))


def scored(
    x: Tensor, labels: Tensor, z: Tensor, classes: Tensor, apart: Tensor, seed: int
) -> dict[str, Tensor]:
    """The scores N,T of training images (features `x` N,D) for test images (`z` T,D) by each method: above 0
    within the class of the test image, the higher the more it counts, and 0 elsewhere."""
    gen = generator(torch.device("cpu"), seed, STREAM)
    same = labels[:, None] == classes
    chance = torch.rand(same.shape, generator=gen, dtype=torch.float64)
    raw = {"distance": -apart.T, "svm": torch.zeros(same.shape, dtype=torch.float64), "random": chance}
    for t in range(len(z)):
        own = same[:, t]
        if own.any():
            raw["svm"][own, t] = exemplar(x[own], z[t])
    found = {method: above_zero(values, same) for method, values in raw.items()}
    return found | {"class": same.double()}


def above_zero(values: Tensor, same: Tensor) -> Tensor:
    """Values N,T shifted in each column, so that the lowest where `same` is slightly above 0; 0 elsewhere."""
    inside = torch.where(same, values, torch.inf)
    low = inside.amin(0)
    high = torch.where(same, values, -torch.inf).amax(0)
    shifted = values - low + 1e-6 * (high - low).clamp(min=1.0)
    return torch.where(same, shifted, 0.0)


def exemplar(x: Tensor, z: Tensor) -> Tensor:
    """The side of a linear SVM on which each of `x` N,D is, which separates `z` from all of them."""
    from sklearn.svm import LinearSVC  # type: ignore[import-untyped]

    both = torch.cat([x, z[None]]).numpy()
    mean, scale = both.mean(0), both.std(0) + 1e-9
    svm = LinearSVC(C=0.1, class_weight="balanced", random_state=0, max_iter=5000)
    svm.fit((both - mean) / scale, np.r_[np.zeros(len(x)), 1])
    return torch.from_numpy(svm.decision_function((x.numpy() - mean) / scale))


@torch.no_grad()
def logits_of(model: nn.Module, images: Images, device: torch.device) -> Tensor:
    """float64 N,K on the host."""
    x = to_float(images.x.to(device)).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, enabled=False):
        return model(x).double().cpu()


def predicted(model: nn.Module, images: Images, device: torch.device) -> Tensor:
    """The classes that a network in eval mode predicts, int64 N on the host."""
    return logits_of(model, images, device).argmax(1)


def margins(model: nn.Module, images: Images, device: torch.device) -> Tensor:
    """log(p/(1-p)) of the probability of each image's class, N: its logit over those of the others."""
    logits = logits_of(model, images, device)
    own = torch.nn.functional.one_hot(images.y.cpu(), logits.shape[1]).bool()
    return logits[own] - torch.where(own, -torch.inf, logits).logsumexp(1)


def correlation(sums: Tensor, outputs: Tensor) -> float:
    """The mean over columns of Spearman's rank correlation; 0 for a column whose numbers are all equal."""
    found = [
        torch.corrcoef(torch.stack((ranks(a), ranks(b))))[0, 1].nan_to_num(0.0)
        for a, b in zip(sums.mT, outputs.mT, strict=True)
    ]
    return torch.stack(found).mean().item()


def ranks(values: Tensor) -> Tensor:
    """The ranks of numbers, float64 N; equal ones share their mean rank."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[which]
