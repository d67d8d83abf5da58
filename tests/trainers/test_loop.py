"""The training loop learns, is reproducible, agrees with a plain loop, and reports why it stopped."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from poisons import DataSpec, Store
from tests.conftest import CPU
from trainers import Images, InputError, TrainSpec, fit, operations
from trainers.architectures.lenet import LeNet5
from trainers.attacks.pgd import Pgd
from trainers.defenses.chain import Chain
from trainers.evaluate import EvaluationSpec, accuracy, evaluate, metric_of
from trainers.families import Architecture, Defense, Metrics, Report, Schedule
from trainers.images import to_float
from trainers.loop import (
    DivergenceError,
    OutOfMemoryError,
    Training,
    generator,
    prepared,
    summary,
    train_epoch,
)
from trainers.probe import Finding, Probe, ProbeRun, Subject
from trainers.recipe import native_bfloat16
from trainers.spec import Plugin, plain
from trainers.trial import Trial

TINY: dict[str, Any] = {"architecture": "lenet5", "epochs": 2, "batch_size": 16, "augmentations": []}
TINY |= {"precision": "float32"}


def test_equal_arguments_give_equal_numbers(images: Images) -> None:
    spec = TrainSpec.parse({**TINY, "augmentations": ["flip_crop"]}, "test")
    state = torch.get_rng_state()
    one, again = (fit(spec, images, images, seed=3, device=CPU).history for _ in range(2))
    other = fit(spec, images, images, seed=4, device=CPU).history
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), state), "no global generator is touched"


def test_the_loop_agrees_with_a_plain_one(images: Images) -> None:
    spec = TrainSpec.parse({**TINY, "schedule": {"kind": "multi_step", "milestones": [0.5]}}, "test")
    ours = fit(spec, images, images, seed=0, device=CPU)
    model = spec.architecture.network(num_classes=4, shape=(3, 32, 32), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch, lr in ((1, 0.1), (2, 0.1 * 0.1)):
        optimizer.param_groups[0]["lr"] = lr
        order = torch.randperm(40, generator=generator(CPU, 0, epoch))
        for take in order.split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(images.x[take].float() / 255), images.y[take]).backward()
            optimizer.step()
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_every_epoch_is_reported_and_summed_up(images: Images) -> None:
    rows: list[Metrics] = []
    history = fit(
        TrainSpec.parse(TINY, "test"), images, images, seed=0, device=CPU, report=rows.append
    ).history
    assert rows == history
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {"epoch", "train/loss", "train/acc", "lr", "test/clean_acc"}
    peaks = [
        {"epoch": float(e), "lr": 0.0, "test/clean_acc": acc} for e, acc in enumerate([0.2, 0.7, 0.7, 0.4], 1)
    ]
    assert summary(peaks) == {"test/clean_acc": 0.4, "test/peak_clean_acc": 0.7, "test/peak_epoch": 2}


def test_training_does_not_modify_images(images: Images) -> None:
    before = images.x.clone()
    spec = TrainSpec.parse({**TINY, "epochs": 1, "defense": {"kind": "pgd_at", "steps": 2}}, "test")
    fit(spec, images, images, seed=0, device=CPU)
    assert torch.equal(images.x, before)


def test_a_nan_loss_is_reported_with_its_epoch(images: Images) -> None:
    spec = TrainSpec.parse({**TINY, "epochs": 50, "optimizer": {"kind": "sgd", "lr": 1e6}}, "test")
    rows: list[Metrics] = []
    with pytest.raises(
        DivergenceError, match=r"not finite in epoch \d+, batch \d of 3; try a smaller optimizer.lr"
    ) as caught:
        fit(spec, images, images, seed=0, device=CPU, report=rows.append)
    assert list(caught.value.history) == rows


def test_nan_weights_are_reported_even_if_the_loss_is_finite(images: Images) -> None:
    """One step so large that only the weights after it overflow."""
    spec = TrainSpec.parse(
        {**TINY, "epochs": 1, "batch_size": 40, "optimizer": {"kind": "sgd", "lr": 1e45}}, "test"
    )
    with pytest.raises(DivergenceError, match=r"some weights were not after epoch 1, batch 1 of 1"):
        fit(spec, images, images, seed=0, device=CPU)


class Glutton(Architecture, kind="glutton"):
    """Asks for more memory than there is."""

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> torch.nn.Module:
        class Huge(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.empty(len(x), 2**46) @ x.flatten(1)

        return torch.nn.Sequential(Huge(), torch.nn.Linear(1, 1))


del Architecture.registry["glutton"]  # a test's own: in no table and no golden file


def test_out_of_memory_is_reported_with_a_fix(images: Images) -> None:
    spec = TrainSpec.parse(TINY, "test").model_copy(update={"architecture": Glutton()})
    with pytest.raises(OutOfMemoryError, match=r"on cpu, with batch_size 16 of 3x32x32 images.*batch_size 8"):
        fit(spec, images, images, seed=0, device=CPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_digits_are_learnt_in_either_precision(store: Store, precision: str) -> None:
    train, test = (store.ensure(DataSpec.parse({"split": s}, "test").pinned()) for s in ("train", "test"))
    spec = TrainSpec.parse(
        {
            **TINY,
            "epochs": 12,
            "batch_size": 64,
            "optimizer": {"kind": "sgd", "lr": 0.03},
            "schedule": "one_cycle",
            "precision": precision,
        },
        "test",
    )
    assert summary(fit(spec, train, test, seed=0, device=CPU).history)["test/clean_acc"] > 0.93


def test_accuracy_is_the_share_of_right_answers(images: Images) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.one_hot(torch.ones(len(x), dtype=torch.int64), 4).float()

    model = Constant().train()
    assert accuracy(model, images, CPU) == 0.25
    assert model.training


@pytest.mark.parametrize(
    ("spec", "at"),
    [
        ({"kind": "multi_step"}, {0.1: 1, 0.499: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 0.99: 0.01}),
        ({"kind": "one_cycle", "warmup": 0.2}, {0.1: 0.5, 0.2: 1, 0.6: 0.5, 1.0: 0}),
        ("cosine", {0.0: 1, 0.25: (1 + 0.5**0.5) / 2, 0.5: 0.5, 1.0: 0}),
        ({"kind": "cosine", "warmup": 0.2, "floor": 0.02}, {0.1: 0.5, 0.2: 1, 0.6: 0.51, 1.0: 0.02}),
    ],
)
def test_schedules_have_their_closed_form(spec: Any, at: dict[float, float]) -> None:
    schedule = Schedule.parse(spec, "test")
    assert {p: pytest.approx(f) for p, f in at.items()} == {p: schedule.factor(p) for p in at}


@pytest.mark.parametrize("member", Schedule.registry.values(), ids=lambda m: m.kind)
def test_every_schedule_stays_between_zero_and_the_full_rate(member: type[Schedule]) -> None:
    assert all(0 <= member().factor(i / 1000) <= 1 for i in range(1, 1000))


FIELDS = {"architecture": "architecture", "augmentation": "augmentations", "defense": "defense"} | {
    "optimizer": "optimizer",
    "schedule": "schedule",
}
KINDS = [(family, kind) for family in FIELDS for kind in Plugin.families[family].registry]


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_every_kind_trains_two_batches(images: Images, family: str, kind: str) -> None:
    if kind == "timm":
        pytest.importorskip("timm")
    settings = {"kind": kind, **Plugin.families[family].registry[kind].smoke}
    field: Any = [settings] if family == "augmentation" else settings
    spec = TrainSpec.parse({**TINY, "epochs": 1, "batch_size": 20, FIELDS[family]: field}, "test")
    row = fit(spec, images, images, seed=0, device=CPU).history[0]
    assert 0 < row["train/loss"] < 100


@pytest.mark.parametrize("member", Defense.registry.values(), ids=lambda m: m.kind)
def test_every_defense_keeps_images_and_gives_a_finite_loss(member: type[Defense], images: Images) -> None:
    defense, before = member.parse(member.smoke, "test"), images.x.clone()
    prepared = defense.prepare(images, device=CPU, gen=generator(CPU, 0), report=lambda row: None)
    again = defense.prepare(images, device=CPU, gen=generator(CPU, 0), report=lambda row: None)
    assert prepared.x.shape == images.x.shape
    assert prepared.x.dtype == (torch.uint8 if defense.whole_levels else torch.float32)
    assert torch.equal(prepared.x, again.x)
    assert torch.equal(prepared.y, images.y)
    pure = defense.purify(images.x.float() / 255)
    assert pure.shape == images.x.shape
    assert 0 <= pure.min() <= pure.max() <= 1
    model = Architecture.parse("lenet5", "test").network(num_classes=4, shape=(3, 32, 32), seed=0).train()
    y = F.one_hot(prepared.y, 4).float()
    gen = torch.Generator().manual_seed(0)
    x = defense.perturb(model, to_float(prepared.x), y, gen)
    loss, logits = defense.loss(model, x, y, gen)
    assert not defense.whole_levels or 0 <= x.min() <= x.max() <= 1
    assert loss.isfinite()
    assert logits.shape == (40, 4)
    assert model.training
    assert torch.equal(images.x, before)


class Witness(Defense, kind="witness"):
    """Says what it is given."""

    def perturb(self, model: Any, x: torch.Tensor, y: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
        seen.append((x.clone(), y.clone()))
        return 1 - x

    def loss(self, model: Any, x: torch.Tensor, y: torch.Tensor, gen: torch.Generator) -> Any:
        seen.append((x.clone(), y.clone()))
        return super().loss(model, x, y, gen)


del Defense.registry["witness"]
seen: list[tuple[torch.Tensor, torch.Tensor]] = []


def test_an_attack_is_crafted_on_the_unmixed_batch_and_then_mixed(images: Images) -> None:
    """Mixup and later augmentations are applied between crafting and loss, earlier ones before both."""
    augmentations = ["flip_crop", "mixup", "cutout"]
    settings = {**TINY, "epochs": 1, "batch_size": 40, "augmentations": augmentations}
    spec = TrainSpec.parse(settings, "test").model_copy(update={"defense": Witness()})
    seen.clear()
    fit(spec, images, images, seed=0, device=CPU)
    (crafted, pure), (trained, mixed) = seen
    gen = generator(CPU, 0, 1)
    order = torch.randperm(40, generator=gen)
    x, y = spec.augmentations[0](images.x[order].float() / 255, F.one_hot(images.y[order], 4).float(), gen)
    assert torch.equal(crafted, x)
    assert torch.equal(pure, y)
    x, y = spec.augmentations[1](1 - x, y, gen)
    x, y = spec.augmentations[2](x, y, gen)
    assert torch.equal(trained, x)
    assert torch.equal(mixed, y)
    assert not torch.equal(pure, mixed)


class Negative(Defense, kind="negative"):
    """Trains on some negatives of the images, chosen at random, and purifies inputs to their negatives."""

    def prepare(
        self, images: Images, *, device: torch.device, gen: torch.Generator, report: Report
    ) -> Images:
        chosen = torch.rand(len(images), generator=gen, device=device).cpu() < 0.5
        x = torch.where(chosen[:, None, None, None], 255 - images.x, images.x)
        return Images(x, images.y, images.num_classes)

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - x


del Defense.registry["negative"]


def test_a_defense_prepares_what_is_trained_on_and_purifies_what_is_tested(images: Images) -> None:
    """The reference trains on the prepared images, and tests on purified ones, without a defense."""
    plain = TrainSpec.parse({**TINY, "epochs": 2, "batch_size": 20}, "test")
    spec = plain.model_copy(update={"defense": Negative()})
    negatives = Images(255 - images.x, images.y, images.num_classes)
    done = fit(spec, images, images, seed=3, device=CPU)
    assert 5 < (done.images.x != images.x).flatten(1).any(1).sum() < 35
    same = prepared(spec, images, seed=3, device=CPU)
    assert torch.equal(done.images.x, same.x)
    assert not torch.equal(same.x, prepared(spec, images, seed=4, device=CPU).x)
    reference = fit(plain, same, negatives, seed=3, device=CPU)
    assert done.history == reference.history

    evaluation = EvaluationSpec(attacks=(Pgd(steps=2),))
    found = evaluate(done.model, same, images, evaluation, gen=generator(CPU, 0), defense=spec.defense)
    clean = evaluate(reference.model, same, negatives, evaluation, gen=generator(CPU, 0))
    kept = ("test/clean_acc", "train/unaugmented_acc")
    assert {name: found.metrics[name] for name in kept} == {name: clean.metrics[name] for name in kept}
    deployed = spec.defense.deployed(done.model.eval())
    attacked = Pgd(steps=2).craft(deployed, images.x.float() / 255, images.y, generator(CPU, 0))
    right = (done.model(1 - attacked).argmax(1) == images.y).double().mean().item()
    assert found.metrics[metric_of(evaluation.attacks[0])] == right
    assert done.model.training is False


class Half(Defense, kind="half"):
    """Purifies by halving."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


del Defense.registry["half"]


def test_a_chain_purifies_in_its_order(images: Images) -> None:
    """At test time and under an attack, which goes through both: 1 - x, then its half."""
    chain = Chain(parts=(Negative(), Half()))
    x, model = images.x.float() / 255, LeNet5().network(num_classes=4, shape=(3, 32, 32), seed=0).eval()
    assert torch.equal(chain.purify(x), (1 - x) / 2)
    assert torch.equal(chain.deployed(model)(x), model((1 - x) / 2))
    evaluation = EvaluationSpec(attacks=(Pgd(steps=2),))
    found = evaluate(model, images, images, evaluation, gen=generator(CPU, 0), defense=chain)
    attacked = Pgd(steps=2).craft(chain.deployed(model), x, images.y, generator(CPU, 0))
    for name, seen in (("test/clean_acc", x), (metric_of(evaluation.attacks[0]), attacked)):
        right = (model((1 - seen) / 2).argmax(1) == images.y).double().mean().item()
        assert found.metrics[name] == right


def test_images_are_prepared_once_however_many_probes_see_them(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []

    class Sees(Probe, kind="sees"):
        """Keeps the training images that it is given."""

        def run(self, subject: Subject) -> Finding:
            given.append(subject.train.x)
            return Finding()

    del Probe.registry["sees"]
    calls: list[Images] = []
    prepare = Negative.prepare

    def counted(self: Negative, images: Images, **options: Any) -> Images:
        calls.append(images)
        return prepare(self, images, **options)

    monkeypatch.setattr(Negative, "prepare", counted)
    spec = TrainSpec.parse({**TINY, "epochs": 1, "batch_size": 20}, "test")
    trial = Trial(train=spec.model_copy(update={"defense": Negative()}))
    trial.run(images, images, device=CPU, probe_runs=[ProbeRun(name, Sees()) for name in "ab"])
    assert len(calls) == 1
    expected = prepared(spec.model_copy(update={"defense": Negative()}), images, seed=0, device=CPU).x
    assert all(torch.equal(x, expected) for x in given)
    assert len(given) == 2


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: values that it reads, and shapes that depend on values."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__.split(".")[0] in (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "is_nonzero",
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("defense", ["erm", {"kind": "pgd_at", "steps": 2}, {"kind": "trades", "steps": 2}])
def test_the_host_synchronises_once_an_epoch(
    images: Images, monkeypatch: pytest.MonkeyPatch, defense: Any
) -> None:
    """However many batches there are: a value read inside a step would stall a GPU at every step."""
    monkeypatch.setattr(operations, "counting_is_free", lambda _: False)

    def waits(batch_size: int) -> int:
        settings = {**TINY, "batch_size": batch_size, "clip_norm": 1.0, "ema": 0.9, "label_smoothing": 0.1}
        settings |= {"augmentations": ["flip_crop", "rand_augment", "cutmix"], "defense": defense}
        spec = TrainSpec.parse(settings, "test")
        training = Training.begin(spec, images, seed=0, device=CPU)
        with Waits() as mode:
            train_epoch(training, training.model, images, epoch=1, seed=0, device=CPU)
        return mode.count

    assert waits(20) == waits(5) == 4, "loss, accuracy, the first bad batch, and whether weights are finite"


def test_label_smoothing_matches_torch(images: Images) -> None:
    spec = TrainSpec.parse({**TINY, "label_smoothing": 0.1}, "test")
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    ours = F.cross_entropy(logits, spec.targets(images.y, 4))
    assert torch.allclose(ours, F.cross_entropy(logits, images.y, label_smoothing=0.1))


def test_average_weights_and_clipped_gradients_agree_with_a_plain_loop(images: Images) -> None:
    settings = {**TINY, "epochs": 1, "ema": 0.8, "clip_norm": 0.05, "optimizer": "adamw"}
    settings |= {"schedule": {"kind": "cosine", "warmup": 0.5}}
    spec = TrainSpec.parse(settings, "test")
    ours = fit(spec, images, images, seed=0, device=CPU).model
    model = spec.architecture.network(num_classes=4, shape=(3, 32, 32), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=3e-2)
    average: list[torch.Tensor] = []
    order = torch.randperm(40, generator=generator(CPU, 0, 1))
    for i, take in enumerate(order.split(16)):
        optimizer.param_groups[0]["lr"] = 5e-4 * spec.schedule.factor((i + 0.5) / 3)
        optimizer.zero_grad()
        F.cross_entropy(model(images.x[take].float() / 255), images.y[take]).backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05) > 0.05
        optimizer.step()
        now = [p.detach().clone() for p in model.parameters()]
        average = [0.8 * a + 0.2 * n for a, n in zip(average, now, strict=True)] if average else now
    for a, b in zip(ours.parameters(), average, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_explicit_fields_override_the_recipe_of_the_architecture() -> None:
    transformer = TrainSpec.parse({"architecture": "cct_7_3x1"}, "test")
    assert plain(transformer.optimizer)["kind"] == "adamw"
    assert (transformer.optimizer.lr, transformer.batch_size) == (5e-4, 128)
    assert plain(transformer.schedule)["kind"] == "cosine"
    wide = TrainSpec.parse({"architecture": {"kind": "wide_resnet", "width": 10}}, "test")
    assert wide.batch_size == 64
    assert TrainSpec.parse({"architecture": "wide_resnet", "batch_size": 128}, "test").batch_size == 128
    assert TrainSpec.parse({"architecture": {"kind": "wide_resnet", "width": 4}}, "test").batch_size == 128
    spelt = TrainSpec.parse(plain(transformer), "test")
    assert spelt == transformer
    assert spelt.key == transformer.key


def test_auto_precision_is_bfloat16_if_it_is_native_and_is_recorded() -> None:
    native = native_bfloat16(CPU)
    assert TrainSpec().arithmetic(CPU) == ("bfloat16" if native else "float32")
    assert TrainSpec(precision="float32").arithmetic(CPU) == "float32"
    assert native_bfloat16(torch.device("meta")) is False


@pytest.mark.parametrize("kind", ["cct_7_3x1", "vgg16_bn"])
def test_dropout_follows_the_seed_and_restores_global_state(images: Images, kind: str) -> None:
    settings = {**TINY, "epochs": 1, "architecture": kind}
    spec, state = TrainSpec.parse(settings, "test"), torch.get_rng_state()
    one, again = (fit(spec, images, images, seed=1, device=CPU).history for _ in range(2))
    assert one == again
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["erm", {"kind": "pgd_at", "steps": 2}], ids=["erm", "pgd_at"])
def test_a_compiled_network_learns_the_same_within_rounding(images: Images, defense: Any) -> None:
    """Of a compiled network, the attack's eval mode and weights without gradients are a graph of their own."""
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    settings = {**TINY, "epochs": 1, "architecture": {"kind": "wide_resnet", "depth": 10, "width": 1}}
    settings |= {"defense": defense, "batch_size": 20}
    eager, fused = (
        fit(
            TrainSpec.parse({**settings, "execution": how}, "test"),
            *(images, images),
            seed=0,
            device=CPU,
        ).history[0]
        for how in ("eager", "compiled")
    )
    assert fused["train/loss"] == pytest.approx(eager["train/loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": {"kind": "resnet18", "width": 0}}, "architecture.*width.*greater than 0, found 0"),
        ({"schedule": {"kind": "multi_step", "milestones": [100, 150]}}, r"shares .* found 100: .* write \[0.5, 0.75\]"),
        ({"schedule": {"kind": "multi_step", "milestones": [0.5, 0.5]}}, "must ascend"),
        ({"defense": {"kind": "pgd_at", "budget": {"eps": 8}}}, "at most 1, the whole pixel range; found 8; write 8/255"),
        ({"defense": {"kind": "pgd_at", "budget": {"eps": 0.031}}}, "write `8/255`"),
        ({"optimizer": {"kind": "sgd", "nesterov": True, "momentum": 0}}, "nesterov needs a momentum"),
        ({"label_smoothing": 1}, "label_smoothing.*less than 1, found 1"),
        ({"augmentations": ["mixip"]}, "did you mean 'mixup'"),
        ({"clip_norm": 0}, "clip_norm.*greater than 0"),
    ],
)  # fmt: skip
def test_an_impossible_recipe_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSpec.parse(settings, "test")
