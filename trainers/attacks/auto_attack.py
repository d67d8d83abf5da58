"""AutoAttack (Croce, Hein; ICML 2020): a parameter-free ensemble, from its authors' library."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from trainers.families import Attack, Passes
from trainers.images import Extent
from trainers.spec import InputError

SURVIVING = 0.5  # share of images assumed to survive the first member, for cost estimates
TARGETED_CLASSES = 4  # required by the targeted DLR loss of APGD-T
SQUARE_ROWS = 5  # of Square's first perturbation in L2


class AutoAttack(Attack, kind="auto_attack"):
    """APGD-CE, targeted APGD-DLR and FAB, and Square, one after another on the images that are still
    classified correctly. Needs the package `pyautoattack`.

    Members that the library cannot run on the images are left out: `apgd-t`, whose loss compares four logits,
    with fewer than 4 classes; `square` in L2, which cuts images into five rows, with images less than 5
    pixels high.
    """

    members: Literal["standard", "quick"] = "standard"
    """The standard ensemble, or quick: its first member, APGD-CE, alone."""
    smoke: ClassVar[dict[str, Any]] = {"members": "quick"}

    @property
    def name(self) -> str:
        return f"auto_attack{'' if self.members == 'standard' else '_quick'}_{self.budget.name}"

    @property
    def passes(self) -> Passes:
        """100 steps of APGD-CE on all images; on those that survive, 100 of APGD-T and 100 of FAB-T for each
        of nine targets, and 5,000 queries of Square. An undefended network takes only the first."""
        first = 100
        if self.members == "quick":
            return Passes(forward=first, inputs=first)
        targeted = SURVIVING * 2 * 9 * 100
        return Passes(forward=first + targeted + SURVIVING * 5000, inputs=first + targeted)

    @property
    def strength(self) -> int:
        return 10**9 if self.members == "standard" else 10**8

    def check_ready(self) -> None:
        if find_spec("pyautoattack") is None:
            raise InputError("auto_attack needs a package: pip install pyautoattack")

    def left_out(self, test: Extent) -> dict[str, str]:
        if self.members == "quick":
            return {}
        height, found = test.shape[1], {}
        if test.num_classes < TARGETED_CLASSES:
            found["apgd-t"] = f"at least {TARGETED_CLASSES} classes, these images have {test.num_classes}"
        if self.budget.norm == "L2" and height < SQUARE_ROWS:
            found["square"] = f"images at least {SQUARE_ROWS} pixels high in L2, these are {height}"
        return found

    def craft(self, model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
        from pyautoattack import AutoAttack as Ensemble

        def logits(batch: Tensor) -> Tensor:
            # through a flat view, so that gradients are contiguous, as the library assumes
            return model(batch.flatten(1).view(batch.shape)).float()

        seed = int(torch.randint(2**31, (), generator=gen, device=x.device))
        ensemble = Ensemble(
            logits,
            norm=self.budget.norm,
            eps=float(self.budget.eps),
            seed=seed,
            device=x.device,
            **({"version": "custom", "attacks": ["apgd-ce"]} if self.members == "quick" else {}),
        )
        classes = model(x[:1]).shape[1]
        left_out = self.left_out(Extent(len(x), (x.shape[1], x.shape[2], x.shape[3]), classes))
        ensemble.attacks_to_run = [one for one in ensemble.attacks_to_run if one not in left_out]
        for member in (ensemble.apgd_targeted, ensemble.fab):
            member.n_target_classes = min(member.n_target_classes, classes - 1)
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            x_adv, _ = ensemble.run_standard_evaluation(x.contiguous(), labels, batch_size=len(x))
        return x_adv
