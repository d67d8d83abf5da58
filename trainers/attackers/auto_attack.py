"""AutoAttack (Croce, Hein; ICML 2020): an ensemble without settings, by its authors' own library."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from trainers.families import Attack, Passes
from trainers.spec import InputError

STANDING = 0.5  # the share of images that are taken to stand after the first member, when a cost is reckoned


class AutoAttack(Attack, kind="auto_attack"):
    """The `standard` version: APGD-CE, targeted APGD-DLR and FAB, and Square, one after another on what
    still stands. `quick` is its first member alone. Needs the package `pyautoattack`.
    """

    members: Literal["standard", "quick"] = "standard"
    smoke: ClassVar[dict[str, Any]] = {"members": "quick"}

    @property
    def name(self) -> str:
        return f"auto_attack{'' if self.members == 'standard' else '_quick'}_{self.budget.name}"

    @property
    def passes(self) -> Passes:
        """100 steps of APGD-CE on all images; on what stands 100 of APGD-T and 100 of FAB-T for each of nine
        targets, and 5,000 queries of Square. A network that nothing defends takes the first alone."""
        first = 100
        if self.members == "quick":
            return Passes(forward=first, inputs=first)
        targeted = STANDING * 2 * 9 * 100
        return Passes(forward=first + targeted + STANDING * 5000, inputs=first + targeted)

    @property
    def strength(self) -> int:
        return 10**9 if self.members == "standard" else 10**8

    def check_ready(self) -> None:
        if find_spec("pyautoattack") is None:
            raise InputError("auto_attack needs a package: pip install pyautoattack")

    def craft(self, model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
        from pyautoattack import AutoAttack as Ensemble

        def logits(batch: Tensor) -> Tensor:
            # through a flat view, so that gradients come back in the plain layout that the library assumes
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
        others = model(x[:1]).shape[1] - 1
        for member in (ensemble.apgd_targeted, ensemble.fab):
            member.n_target_classes = min(member.n_target_classes, others)
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            x_adv, _ = ensemble.run_standard_evaluation(x.contiguous(), labels, batch_size=len(x))
        return x_adv
