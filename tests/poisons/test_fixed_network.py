"""Error-maximising and hypocritical noise against plain loops; surrogates that are trained once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from poisons import CraftContext, DataSpec, Poison, Store
from poisons import surrogate as surrogates
from poisons.methods.descent import STREAM
from poisons.methods.hypo import Hypo
from poisons.methods.tap import Tap
from poisons.surrogate import surrogate, surrogate_name
from poisons.workers import Item, Result, Shared, Workers
from tests.conftest import CPU
from trainers import Images, InputError, TrainSpec, loop, numerical_platform
from trainers.augmentations.subpixel_shift import shifted
from trainers.checkpoint import Checkpoint
from trainers.images import Extent
from trainers.loop import fit, generator, train_epoch
from trainers.recipe import repeatable

SURROGATE = {
    "architecture": {"kind": "resnet18", "width": 4},
    "epochs": 10,
    "batch_size": 20,
    "augmentations": [],
    "precision": "float32",
}
SMALL: dict[str, Any] = {"surrogate": SURROGATE, "steps": 3, "batch_size": 16}


@pytest.fixture(scope="module")
def learnable() -> Images:
    """40 images of 4 classes, which differ in colour."""
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 4
    x = torch.randint(40, 120, (40, 3, 32, 32), generator=gen)
    for k in range(3):
        x[y == k, k] += 90
    return Images(x.to(torch.uint8), y, 4)


def quiet(**more: Any) -> CraftContext:
    return CraftContext(report=lambda _: None, **more)


def plain(
    poison: Any, clean: Images, target: Callable[[Tensor], Tensor], sign: float, restart: int
) -> tuple[Tensor, float]:
    """The noise as papers write it, batch by batch, in float32."""
    (model,), *_ = surrogate(poison.surrogate, clean, 0, quiet())
    model.requires_grad_(False)
    eps, step, found, total = 8 / 255, float(poison.usual_step) * 8 / 255, [], 0.0
    with repeatable():
        for batch, start in enumerate(range(0, len(clean), poison.batch_size)):
            some = slice(start, start + poison.batch_size)
            x, labels = clean.x[some].float() / 255, clean.y[some]
            gen = generator(CPU, 0, STREAM, restart, batch)
            delta = torch.zeros_like(x)
            if not poison.from_zero:
                delta = (torch.randn(x.shape, generator=gen) * eps).clamp(-eps, eps)
            for _ in range(poison.steps):
                z = (x + delta).clamp(0, 1).requires_grad_()
                drawn = torch.rand((len(x), 3), generator=gen)
                seen = shifted(z, (2 * drawn[:, :2] - 1) * 4, drawn[:, 2] > 0.5)
                seen = seen.contiguous(memory_format=torch.channels_last)
                loss = sign * F.cross_entropy(model(seen), target(labels), reduction="sum")
                loss.backward()
                assert z.grad is not None
                delta = (z.detach() - x - step * z.grad.sign()).clamp(-eps, eps)
            total += loss.item()
            found.append((((x + delta).clamp(0, 1) - x).double() * 255).round().clamp(-8, 8))
    return torch.cat(found), total / len(clean)


@pytest.mark.parametrize(
    ("poison", "target", "sign"),
    [
        (Tap.parse({**SMALL, "restarts": 1}, "test"), lambda y: (y + 1) % 4, 1.0),
        (Tap.parse({**SMALL, "restarts": 1, "aim": "untargeted"}, "test"), lambda y: y, -1.0),
        (Hypo.parse(SMALL, "test"), lambda y: y, 1.0),
    ],
    ids=["tap", "untargeted", "hypo"],
)
def test_noise_is_that_of_a_plain_loop(poison: Any, target: Any, sign: float, learnable: Images) -> None:
    crafted = poison.craft(learnable, seed=0, context=quiet())
    wanted, objective = plain(poison, learnable, target, sign, 0)
    assert torch.equal(crafted.delta.double(), wanted)
    assert crafted.facts()["objective"] == pytest.approx(objective, rel=1e-5)


def test_hypocritical_noise_begins_at_nothing_against_a_network_of_constant_rate() -> None:
    """As the release has it: milestones of 75 and 90 epochs, of which it trains 10."""
    hypo = Hypo()
    assert not hypo.begin(torch.rand(2, 3, 4, 4), torch.Generator()).any()
    rates = [hypo.surrogate.schedule.factor(step / 10) for step in range(10)]
    assert set(rates) == {1.0}
    with pytest.raises(InputError, match="noise starts at zero, and is published without restarts"):
        Hypo.parse({"restarts": 2}, "test")


def test_the_restart_with_the_lowest_objective_is_kept(learnable: Images) -> None:
    poison = Tap.parse({**SMALL, "restarts": 3}, "test")
    tried = [plain(poison, learnable, lambda y: (y + 1) % 4, 1.0, restart) for restart in range(3)]
    best = min(tried, key=lambda pair: pair[1])
    crafted = poison.craft(learnable, seed=0, context=quiet())
    assert torch.equal(crafted.delta.double(), best[0])


def test_noise_leads_the_surrogate_to_the_next_class(learnable: Images) -> None:
    longer = {**SMALL, "surrogate": {**SURROGATE, "epochs": 80}, "augmentations": [], "eps": "32/255"}
    poison = Tap.parse({**longer, "steps": 60, "restarts": 1}, "test")
    poisoned = poison.craft(learnable, seed=0, context=quiet()).apply(learnable)
    (model,), accuracy, _ = surrogate(poison.surrogate, learnable, 0, quiet())
    assert accuracy > 0.9
    target = (learnable.y + 1) % 4
    before, after = (F.cross_entropy(model(one.x.float() / 255), target) for one in (learnable, poisoned))
    assert after < before / 2


class Three(Workers):
    size = 3

    def map(self, work: Any, shared: Shared, items: Sequence[Item], *, device: torch.device) -> list[Result]:
        return [work(shared, item, device) for item in items]


def test_any_split_gives_the_same_bits(learnable: Images) -> None:
    poison = Tap.parse({**SMALL, "batch_size": 8}, "test")
    alone, shared = (
        poison.craft(learnable, seed=0, context=quiet(**more)) for more in ({}, {"workers": Three()})
    )
    assert torch.equal(alone.delta, shared.delta)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("workers", [{}, {"workers": Three()}], ids=["one", "three"])
@pytest.mark.parametrize("restart", [1, 3])
def test_a_killed_crafting_goes_on_with_the_next_batches(
    learnable: Images, tmp_path: Path, restart: int, workers: dict[str, Any]
) -> None:
    poison = Tap.parse({**SMALL, "restarts": 3, "batch_size": 6}, "test")
    whole = poison.craft(learnable, seed=0, context=quiet())
    context = quiet(checkpoint=Checkpoint(tmp_path / "checkpoint.pt", every=0), **workers)
    rows: list[dict[str, Any]] = []

    def killed(row: dict[str, Any]) -> None:
        if row.get("restart") == restart and row["images"] == 18:
            raise KilledError

    with pytest.raises(KilledError):
        poison.craft(learnable, seed=0, context=replace(context, report=killed))
    again = poison.craft(learnable, seed=0, context=replace(context, report=rows.append))
    assert torch.equal(again.delta, whole.delta)
    assert again.facts() == whole.facts()
    done = [(row["restart"], row["images"]) for row in rows if "restart" in row]
    assert done[0] == (restart, 36 if workers else 24)
    assert done[-1] == (3, 40)


@pytest.mark.parametrize("kind", ["tap", "dune", "sep"])
@pytest.mark.parametrize("epoch", [1, 5, 10])
def test_a_killed_training_of_a_surrogate_goes_on_with_the_next_epoch(
    kind: str, epoch: int, learnable: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of which earlier epochs are used. If the crafting has begun and the surrogate is lost, it is
    trained again."""
    member = Poison.registry[kind]
    poison = member.parse({**member.smoke, "surrogate": SURROGATE}, "test")
    whole = poison.craft(learnable, seed=0, context=quiet())
    context = quiet(checkpoint=Checkpoint(tmp_path / "checkpoint.pt", every=0))
    trained: list[int] = []

    def counted(*args: Any, epoch: int, **more: Any) -> Any:
        trained.append(epoch)
        return train_epoch(*args, epoch=epoch, **more)

    def killed(row: dict[str, Any]) -> None:
        if row.get("surrogate_epoch", 0) > epoch or "images" in row:
            raise KilledError

    with pytest.raises(KilledError):
        poison.craft(learnable, seed=0, context=replace(context, report=killed))
    monkeypatch.setattr(loop, "train_epoch", counted)
    again = poison.craft(learnable, seed=0, context=context)
    assert trained == list(range(1 if epoch == 10 else epoch + 1, 11))
    assert context.checkpoint is not None
    assert context.checkpoint.warnings == []
    assert torch.equal(again.apply(learnable).x, whole.apply(learnable).x)
    assert again.facts() == whole.facts()


def test_a_checkpoint_of_a_surrogate_is_no_hindrance(learnable: Images, tmp_path: Path) -> None:
    """Whether it was cached before the kill, or the file is that of another surrogate, or of the crafting."""
    poison = Tap.parse({**SMALL, "restarts": 2}, "test")
    whole, cache = poison.craft(learnable, seed=0, context=quiet()), dict[str, Any]()
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", every=0)

    def cached(name: str, make: Callable[[], Any]) -> Any:
        return cache.setdefault(name, None) or cache.update({name: make()}) or cache[name]

    context = quiet(checkpoint=checkpoint, cache=cached)
    surrogate(poison.surrogate, learnable, 0, context)
    assert not checkpoint.path.exists()
    for owner in ("surrogate", f"tap {poison.key}, seed 0"):
        checkpoint.save({"training": "another", "states": 1, "state": {}}, owner=owner)
        found = poison.craft(learnable, seed=0, context=context)
        assert torch.equal(found.delta, whole.delta)
    cache.clear()
    checkpoint.save({"restart": 1, "total": 0.0, "lowest": 1.0}, owner=f"tap {poison.key}, seed 0")
    accuracy = surrogate(poison.surrogate, learnable, 0, context).accuracy
    assert accuracy == pytest.approx(whole.facts()["surrogate_accuracy"], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"states": [1.0]}, "the checkpoint was damaged (states"),
        ({"states": []}, "the checkpoint lacks weights of earlier epochs"),
        ({"state": {}}, "the checkpoint lacks weights of earlier epochs"),
        ({"states": [], "state": {"history": [{}]}}, "the checkpoint was damaged ("),
    ],
)
def test_a_damaged_checkpoint_of_a_surrogate_is_not_used(
    change: dict[str, Any], what: str, learnable: Images, tmp_path: Path
) -> None:
    spec, checkpoint = TrainSpec.parse(SURROGATE, "test"), Checkpoint(tmp_path / "checkpoint.pt")
    name = f"{surrogate_name(spec, 0)}-{numerical_platform.arithmetic_mark(CPU)}"
    state = {"training": name, "states": [torch.zeros(1)], "state": {"history": [{}] * 10}}
    checkpoint.save(state | change, owner="surrogate")
    found = surrogate(spec, learnable, 0, quiet(checkpoint=checkpoint))
    assert found.accuracy == surrogate(spec, learnable, 0, quiet()).accuracy
    assert checkpoint.warnings[0].startswith(what)


def test_another_processor_trains_its_own_surrogate(
    learnable: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training ends elsewhere, and equal seeds give equal noise on equal platforms."""
    names: list[str] = []

    def cached(name: str, make: Callable[[], Any]) -> Any:
        names.append(name)
        return make()

    spec, context = TrainSpec.parse(SURROGATE, "test"), quiet(cache=cached)
    surrogate(spec, learnable, 0, context)
    monkeypatch.setattr(numerical_platform, "cpu_isa", lambda: "an instruction set of its own")
    surrogate(spec, learnable, 0, context)
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"restart": 3}, "restart: expected 0..2"),
        ({"total": 1}, "total: expected a number"),
        ({"levels": torch.zeros(6, 3, 32, 32)}, "levels: expected the levels of images"),
        ({"levels": torch.zeros(5, 3, 32, 32, dtype=torch.int8)}, "levels: expected whole batches, and not all"),
        ({"best": torch.zeros(6, 3, 32, 32, dtype=torch.int8)}, "best: expected 40 images"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_not_used(
    learnable: Images, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    poison = Tap.parse({**SMALL, "restarts": 3, "batch_size": 6}, "test")
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
    state = {"restart": 0, "total": 0.5, "lowest": float("inf")}
    checkpoint.save(state | change, owner=f"tap {poison.key}, seed 0")
    found = poison.craft(learnable, seed=0, context=quiet(checkpoint=checkpoint))
    assert torch.equal(found.delta, poison.craft(learnable, seed=0, context=quiet()).delta)
    assert f"was damaged ({what}" in checkpoint.warnings[0]


@pytest.mark.parametrize("kind", [Tap, Hypo])
def test_one_class_is_refused_before_a_training(kind: Any) -> None:
    with pytest.raises(InputError, match="a surrogate tells classes apart, and there is only one"):
        kind.parse(SMALL, "test").check(Extent(40, (3, 32, 32), 1))


def test_no_victim_starts_from_the_weights_of_a_surrogate(
    learnable: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor sees its images in the same order: both follow from the seed of a training."""
    seeds: list[int] = []

    def seen(*given: Any, seed: int, **more: Any) -> Any:
        seeds.append(seed)
        return fit(*given, seed=seed, **more)

    monkeypatch.setattr(surrogates, "fit", seen)
    spec = TrainSpec.parse({**SURROGATE, "epochs": 1}, "test")
    for seed in range(3):
        with suppress(InputError):  # it learns nothing so fast
            surrogate(spec, learnable, seed, quiet())
    assert len(set(seeds)) == 3
    assert min(seeds) > 2**32


def test_a_surrogate_is_trained_once_for_poisons_and_seeds(store: Store) -> None:
    rows: list[dict[str, Any]] = []
    source, wider = (
        {"kind": "digits", "size": 16},
        {**SURROGATE, "architecture": {"kind": "resnet18", "width": 8}},
    )
    specs = [
        DataSpec.parse({"source": source, "limit": 60, "poison": poison, "seed": seed}, "test").pinned()
        for poison, seed in (
            ({"kind": "tap", **SMALL}, 0),
            ({"kind": "tap", **SMALL}, 1),
            ({"kind": "hypo", **SMALL, "steps": 1}, 0),
            ({"kind": "tap", **SMALL, "surrogate": wider}, 0),
        )
    ]
    for spec in specs:
        store.ensure(spec, CraftContext(report=rows.append))
    assert len([row for row in rows if row.get("surrogate_epoch") == 1]) == 2
    assert len({spec.shares for spec in specs}) == 2
    reused = [(store.record(spec) or {})["facts"][spec.poison[0].kind]["reused"] for spec in specs]
    assert reused == [False, True, True, False]
    assert None not in {spec.shares for spec in specs}
    other = Store(store.root.parent / "other").ensure(specs[2])
    mine = store.load(specs[2])
    assert mine is not None
    assert torch.equal(mine.x, other.x)


def test_a_surrogate_that_learnt_nothing_says_so(images: Images) -> None:
    """Random images, one step at a rate of almost nothing."""
    idle = {**SURROGATE, "epochs": 1, "optimizer": {"kind": "sgd", "lr": 1e-9}}
    poison = Tap.parse({**SMALL, "surrogate": idle}, "test")
    with pytest.raises(
        InputError,
        match=r"the surrogate learnt nothing: its accuracy on what it was trained on is .*train it",
    ):
        poison.craft(images, seed=0, context=quiet())


def test_plans_know_what_it_takes() -> None:
    one = Tap.parse({**SMALL, "restarts": 1}, "test").work(1000, shape=(3, 32, 32), num_classes=10)
    more = Tap.parse({**SMALL, "restarts": 5, "steps": 30}, "test").work(
        1000, shape=(3, 32, 32), num_classes=10
    )
    assert more.flops > one.flops > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 0}, "a step of 0 changes nothing"),
        ({"surrogate": {"start": {"kind": "weights", "path": "w.pt"}}}, "its seed draws: leave `start` out"),
        ({"surrogate": {"defense": "avatar"}}, "trained on the images as they are: leave avatar out of its"),
        ({"surrogate": {"defense": ["d_vae", "jpeg"]}}, "leave d_vae out of its `defense`"),
        ({"augmentations": ["mixup"]}, "no gradient of single images passes 'mixup'"),
        ({"eps": "1/1000"}, "eps must be between 1/255"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tap.parse(settings, "test")


def test_the_defense_of_a_surrogate_suits_the_images() -> None:
    poison = Tap.parse({"surrogate": {"defense": "grayscale"}}, "test")
    poison.check(Extent(100, (3, 8, 8), 2))
    with pytest.raises(InputError, match="grayscale: only RGB images have colours to remove"):
        poison.check(Extent(100, (1, 8, 8), 2))


def test_the_published_surrogate() -> None:
    spec: TrainSpec = Tap().surrogate
    rates = [spec.schedule.factor((epoch + 0.5) / 40) for epoch in range(40)]
    drops = [i for i in range(1, 40) if rates[i] < rates[i - 1]]
    assert drops == [14, 25, 35]
    assert Poison.parse("hypo", "test").surrogate.defense.kind == "pgd_at"  # type: ignore[attr-defined]
