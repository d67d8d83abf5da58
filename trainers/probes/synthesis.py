"""What a classifier draws when its input descends its loss (Santurkar, Tsipras, Tran, Ilyas, Engstrom, Madry;
NeurIPS 2019): robust networks have gradients that people, and other networks, recognise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from trainers.defenses.erm import Erm
from trainers.families import Passes, cross_entropy
from trainers.flops import Work, over, tested, training_work
from trainers.images import Extent, to_float
from trainers.last_batch import check_last_batch
from trainers.loop import fit, generator
from trainers.pgd import Budget, Frozen, input_gradient
from trainers.pictured import pictured, psnr
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, ImageMaps, ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import Eps, InputError

JUDGE = 1009  # added to the trial's seed for the training of the judge
STREAM = 83  # first part of every random stream here, after the seed
TASKS, LOOKS = 3, 7  # inpainting, translation and drawing; and verdicts on images
SIDE = 224  # of the images for which the budgets are published
INPAINTING, TRANSLATION, DRAWING = Fraction("21.6"), Fraction(80), Fraction(40)  # published, in L2


class Synthesis(Probe, kind="synthesis"):
    """Fills a hole in test images, turns them into the next class, and draws from noise, by descending the
    trial's loss along its normalised gradient within an L2 budget.

    A *judge* says what was drawn: a network of the same kind, trained as usual for `judge_epochs` on the set
    `clean`, from other weights (`sets: {clean: {poison: clean}}`). Metrics are the shares of images in which
    it sees the class that was wanted: `inpainted`, beside `filled` before, with the mean of the image in the
    hole; `translated`; `drawn`. `own_translated` and `own_drawn` are those in which the network itself sees
    it, which says nothing about the image. `inpainted_psnr` and `filled_psnr` compare the hole with what was
    there, in dB; `judge_acc` is the judge's accuracy on the images as they are.

    The hole is the square in the middle. Unlike in the published code, nothing outside it moves: the gradient
    is masked. Costs `judge_epochs` epochs on the clean images, and three times `steps` steps of `limit`
    images.
    """

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    limit: PositiveInt = 200
    """Size of the class-balanced subset of the test images."""
    hole: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Side of the hole, as a share of that of the image."""
    steps: PositiveInt = 60
    """Steps of each task, of twice its budget divided by their number."""
    inpainting: Eps | None = None
    """L2 budget in units of the pixel range; null is the published 21.6 of 224 pixels a side, to scale."""
    translation: Eps | None = None
    """L2 budget of turning into the next class; null is 80 of 224 pixels, to scale."""
    drawing: Eps | None = None
    """L2 budget of drawing from noise; null is 40 of 224 pixels, to scale."""
    judge_epochs: PositiveInt = 10
    """Epochs of the judge's training."""
    pictured: PositiveInt = 4
    """Test images that are stored for pictures."""
    smoke: ClassVar[dict[str, Any]] = {"limit": 8, "steps": 2, "judge_epochs": 1, "pictured": 2}

    @field_validator("inpainting", "translation", "drawing")
    @classmethod
    def _above_zero(cls, eps: Fraction | None) -> Fraction | None:
        if eps is not None and eps <= 0:
            raise ValueError(f"a budget must be above 0, found {eps}; leave it out for the published one")
        return eps

    @property
    def metrics(self) -> tuple[str, ...]:
        seen = ("filled", "inpainted", "translated", "drawn", "own_translated", "own_drawn", "judge_acc")
        return (*seen, "filled_psnr", "inpainted_psnr")

    def view(self, sets: Sequence[str]) -> ProbeView:
        *shares, filled, inpainted = self.metrics
        picture = ImageMaps(
            kind="image_maps",
            shows="What the network drew, and how much of each pixel it changed.",
            images="images",
        )
        return ProbeView(
            says="What the network draws when an image descends its loss: another network, trained on clean "
            "images, says whether it sees the class that was wanted.",
            units={**dict.fromkeys(shares, PERCENT), filled: "dB", inpainted: "dB"},
            picture=picture,
        )

    def work(self, examined: Examined) -> Work:
        network, images = examined.network, examined.test.at_most(self.limit)
        clean = examined.sets["clean"].images
        judge = training_work(self._recipe(examined.spec), network, train=clean, test=images)
        task = over(images, images, Passes(forward=self.steps, inputs=self.steps), network)
        return judge + task * TASKS + tested(images, network) * LOOKS

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        if not 1 <= self.side(test.shape) < min(test.shape[1:]):
            raise InputError(f"a hole of {self.hole} leaves nothing to fill in images of {test.shape[1:]}")
        try:
            check_last_batch(spec.architecture, sets["clean"], spec.batch_size, limit="limit of the set")
        except InputError as error:
            raise InputError(f"the judge of the probe {self.kind!r}: {error}") from None

    def run(self, subject: Subject) -> Finding:
        model, images = subject.model, subject.test.subset(self.limit)
        x, labels = to_float(images.x.to(subject.device)), images.y.to(subject.device)
        wanted = (labels + 1) % images.num_classes
        with torch.autocast(subject.device.type, enabled=False), Frozen(model):
            judge = self._judge(subject)
            mask = self.mask(x)
            holed = torch.where(mask > 0, x.mean((2, 3), keepdim=True), x)
            noise = self._noise(x, subject.seed)
            scale = Fraction(min(x.shape[2:]), SIDE)
            inpainted = draw(model, holed, labels, self.inpainting or INPAINTING * scale, self.steps, mask)
            translated = draw(model, x, wanted, self.translation or TRANSLATION * scale, self.steps)
            drawn = draw(model, noise, labels, self.drawing or DRAWING * scale, self.steps)
            found = {
                "filled": sees(judge, holed, labels),
                "inpainted": sees(judge, inpainted, labels),
                "translated": sees(judge, translated, wanted),
                "drawn": sees(judge, drawn, labels),
                "own_translated": sees(model, translated, wanted),
                "own_drawn": sees(model, drawn, labels),
                "judge_acc": sees(judge, x, labels),
                "filled_psnr": psnr(holed, x, mask),
                "inpainted_psnr": psnr(inpainted, x, mask),
            }
        rows = range(min(self.pictured, len(x)))
        pictures = [
            pictured(f"{int(label[i])}, {words}", after[i], before[i])
            for i in rows
            for words, after, before, label in (
                ("with a hole", holed, x, labels),
                ("inpainted", inpainted, holed, labels),
                ("out of another", translated, x, wanted),
                ("out of noise", drawn, noise, labels),
            )
        ]
        return Finding(found, fields={"images": pictures})

    def side(self, shape: tuple[int, int, int]) -> int:
        """The side of the hole in pixels."""
        return round(self.hole * min(shape[1:]))

    def mask(self, x: Tensor) -> Tensor:
        """1 in the hole, 0 elsewhere: float 1,1,H,W."""
        height, width = x.shape[2:]
        side = self.side((x.shape[1], height, width))
        top, left = (height - side) // 2, (width - side) // 2
        mask = torch.zeros((1, 1, height, width), device=x.device)
        mask[:, :, top : top + side, left : left + side] = 1
        return mask

    def _noise(self, x: Tensor, seed: int) -> Tensor:
        """Grey images with Gaussian noise of a quarter of the pixel range."""
        gen = generator(torch.device("cpu"), seed, STREAM)
        return (0.5 + 0.25 * torch.randn(x.shape, generator=gen)).clamp(0, 1).to(x.device)

    def _recipe(self, spec: TrainSpec) -> TrainSpec:
        """How the judge is trained."""
        return spec.model_copy(update={"defense": Erm(), "epochs": self.judge_epochs, "start": None})

    def _judge(self, subject: Subject) -> nn.Module:
        """A network trained on clean images as usual, in eval mode."""
        spec = self._recipe(subject.spec)
        clean, few = subject.sets["clean"], subject.test.subset(self.limit)
        return fit(spec, clean, few, seed=subject.seed + JUDGE, device=subject.device).model.eval()


def draw(
    model: nn.Module, x: Tensor, labels: Tensor, eps: Fraction, steps: int, mask: Tensor | None = None
) -> Tensor:
    """Float images N,C,H,W in [0, 1] from `x`, within `eps` of it in L2, that a frozen network takes for
    `labels`; only what the `mask` is 1 for changes."""
    budget, delta = Budget(norm="L2", eps=eps), torch.zeros_like(x)
    for _ in range(steps):
        grad = input_gradient(model, x + delta, labels, cross_entropy)
        grad = grad if mask is None else grad * mask
        delta = budget.project(budget.step(delta, -grad, 2 * float(eps) / steps), x)
    return x + delta


@torch.no_grad()
def sees(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """The share of float images that a network in eval mode takes for `labels`."""
    logits = model(x.contiguous(memory_format=torch.channels_last))
    return (logits.argmax(1) == labels).double().mean().item()
