"""Error-minimising noise: the same as a plain implementation, in its budget after rounding, honest about its end."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from poisons import CraftContext, DataSpec, Poison, Store
from poisons.methods.em import CHOSEN, GENERATOR_EPOCHS, NOISE_EPOCHS, Em
from poisons.methods.em_noise import EM, Epochs, begin
from poisons.methods.min_min import WEIGHTS
from poisons.stratify import stratified
from poisons.workers import Workers
from tests.conftest import CPU
from trainers import Images, InputError
from trainers.augmentations.flip_crop import FlipCrop
from trainers.checkpoint import Checkpoint
from trainers.loop import DivergenceError, generator
from trainers.spec import plain
from trainers.strided import subsample_first

SMALL: dict[str, Any] = {
    "generator": {"kind": "resnet18", "width": 4},
    "steps": 3,
    "train_steps": 4,
    "max_rounds": 3,
    "stop_error": 0,
    "batch_size": 16,
    "precision": "float32",
}
CLASS_WISE: dict[str, Any] = {**SMALL, "granularity": "class_wise", "steps": 1, "share": 0.5}
QUICK: dict[str, Any] = {**SMALL, "generator": "lenet5"}
QUICK_CLASS_WISE: dict[str, Any] = {**CLASS_WISE, "generator": "lenet5"}
KINDS = pytest.mark.parametrize("settings", [QUICK, QUICK_CLASS_WISE], ids=["sample_wise", "class_wise"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For networks as small as these a second thread is only waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class PowerError(Exception):
    """A power failure."""


class Elsewhere(Workers):
    """As other processes would see it: all is pickled on its way, there and back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.items: list[bytes] = []

    def map(self, work: Any, shared: Any, items: Sequence[Any], *, device: torch.device) -> list[Any]:
        self.items = [pickle.dumps(item) for item in items]
        head = pickle.dumps((work, shared))
        results = []
        for item in self.items:
            there, given = pickle.loads(head)
            results.append(pickle.loads(pickle.dumps(there(given, pickle.loads(item), device))))
        return results


def em(settings: dict[str, Any], **more: Any) -> Em:
    return Em.parse({**settings, **more}, "test")


def float_noise(em: Em, images: Images, folder: Path, *, seed: int = 5, **context: Any) -> Tensor:
    """The noise before it is rounded, as the checkpoint of the last round has it."""
    file = folder / "whole.pt"
    file.unlink(missing_ok=True)
    em.craft(images, seed=seed, context=CraftContext(checkpoint=Checkpoint(file, every=0), **context))
    return torch.load(file, weights_only=True)["state"]["noise"]


class PlainGenerator:
    """The plain way to train the network of `SMALL`."""

    def __init__(self) -> None:
        network = em(SMALL).generator.network(
            num_classes=4, shape=(3, 32, 32), seed=generator(CPU, 5, EM, WEIGHTS).initial_seed()
        )
        subsample_first(network)  # else the heap can be damaged, see trainers/strided.py
        self.model = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parameters = self.model.parameters()
        self.sgd = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)

    def train(self, noisy: Tensor, labels: Tensor) -> None:
        self.model.train()
        self.sgd.zero_grad()
        F.cross_entropy(self.model(noisy), labels).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.sgd.step()

    def descend(self, x: Tensor, labels: Tensor, noise: Tensor, *, eps: float, steps: int) -> Tensor:
        self.model.eval()
        z = (x + noise).clamp(0, 1)
        for _ in range(steps):
            z = z.detach().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(self.model(z), labels), z)
            noise = (z.detach() - eps / 10 * grad.sign() - x).clamp(-eps, eps)
            z = (x + noise).clamp(0, 1)
        return noise


def test_the_noise_matches_a_plain_implementation(images: Images, tmp_path: Path) -> None:
    """40 images make batches of 16, 16 and 8; the generator's fourth step of a round begins them again."""
    rounds: list[dict[str, Any]] = []  # fewer than three, if no error is left before
    ours = float_noise(em(SMALL, eps="32/255"), images, tmp_path, report=rounds.append)
    plainly, x, noise, at = PlainGenerator(), images.x.float() / 255, torch.zeros(images.x.shape), 0
    for _ in rounds:
        for _ in range(4):
            part, at = slice(at, at + 16), at + 16 if at + 16 < 40 else 0
            plainly.train(x[part] + noise[part], images.y[part])
        for start in range(0, 40, 16):
            part = slice(start, start + 16)
            noise[part] = plainly.descend(x[part], images.y[part], noise[part], eps=32 / 255, steps=3)
    assert len(rounds) > 1
    assert torch.equal(ours, noise)


def test_class_wise_noise_matches_a_plain_implementation(images: Images, tmp_path: Path) -> None:
    """Half of each class's images move the noise, all train the generator, in batches of 8 that are shuffled."""
    plainly, x, noise = PlainGenerator(), images.x.float() / 255, torch.zeros(4, 3, 32, 32)
    chosen = stratified(images.y, 4, 0.5, generator(CPU, 5, EM, CHOSEN)).nonzero().squeeze(1)
    train, search = Epochs(40, 8, True, True, 5, GENERATOR_EPOCHS), Epochs(20, 8, True, True, 5, NOISE_EPOCHS)
    turns = [rows for epoch in range(3) for rows in train.epoch(epoch)]
    for number in range(1, 4):
        for rows in turns[4 * (number - 1) : 4 * number]:
            plainly.train(x[rows] + noise[images.y[rows]], images.y[rows])
        for rows in search.epoch(number):
            part, labels = x[chosen[rows]], images.y[chosen[rows]]
            moved = plainly.descend(part, labels, noise[labels], eps=32 / 255, steps=1)
            for k in labels.unique():
                noise[k] = moved[labels == k].mean(0).clamp(-32 / 255, 32 / 255)
    assert noise.any()
    assert torch.equal(float_noise(em(CLASS_WISE, eps="32/255", batch_size=8), images, tmp_path), noise)


@KINDS
@pytest.mark.parametrize("application", ["signed", "released_em", "released_ops"])
@pytest.mark.parametrize("eps", ["8/255", "17/510"])
def test_the_budget_holds_after_rounding(images: Images, settings: Any, application: str, eps: str) -> None:
    poison = em(settings, eps=eps, step=eps, application=application, train_steps=1, max_rounds=2)
    delta = poison.craft(images, seed=0)
    limit, (low, high) = int(Fraction(eps) * 255), (int(end) for end in delta.delta.aminmax())
    least = {"signed": -limit, "released_em": 0, "released_ops": -limit - 1}[application]
    assert least <= low <= high <= limit
    assert high > 0
    assert low < 0 or application == "released_em", "the noise has both signs"
    moved = delta.apply(images).x.int() - images.x.int()
    assert least <= int(moved.min()) <= int(moved.max()) <= limit


def test_noise_of_a_class_is_the_same_on_all_its_images_and_on_others(images: Images) -> None:
    delta = em(QUICK_CLASS_WISE, eps="32/255").craft(images, seed=0)
    assert delta.per == "class"
    assert delta.delta.shape == (4, 3, 32, 32)
    grey = Images(torch.full((6, 3, 32, 32), 128, dtype=torch.uint8), torch.tensor([0, 0, 1, 1, 3, 2]), 4)
    out = delta.apply(grey).x.int() - 128
    assert torch.equal(out, delta.delta[grey.y].int())


def test_class_wise_noise_can_be_applied_to_other_images(images: Images) -> None:
    assert not em(QUICK).transfers
    assert em(QUICK_CLASS_WISE).transfers
    with pytest.raises(InputError, match="cannot be applied to images"):
        em(QUICK, max_rounds=1).craft(images, seed=0).apply(images.take(torch.arange(3)))


@pytest.mark.parametrize("random_start", [False, True])
def test_a_class_without_images_has_no_noise(images: Images, random_start: bool) -> None:
    some = Images(images.x, images.y * 2, 8)
    delta = em(QUICK_CLASS_WISE, random_start=random_start, max_rounds=1, eps="32/255").craft(some, seed=0)
    assert delta.delta[::2].any(3).any(2).any(1).all()
    assert not delta.delta[1::2].any()


def test_the_record_has_every_round_and_whether_the_end_was_reached(images: Images) -> None:
    seen: list[dict[str, Any]] = []
    given_up = em(QUICK, max_rounds=2, eps="1/255").craft(
        images, seed=0, context=CraftContext(report=seen.append)
    )
    assert given_up.facts()["reached_stop_error"] is False
    assert given_up.facts()["precision"] == "float32"
    assert given_up.facts()["rounds"] == seen
    assert [row["round"] for row in seen] == [1, 2]
    assert all(row.keys() == {"round", "error", "seconds"} for row in seen)
    reached = em(QUICK, stop_error=0.99).craft(images, seed=0).facts()
    assert reached["reached_stop_error"] is True
    assert len(reached["rounds"]) == 1


def test_it_ends_when_the_generator_makes_almost_no_error(images: Images) -> None:
    noisy = em(QUICK, eps="32/255", steps=10, max_rounds=20, stop_error=0.05)
    facts = noisy.craft(images, seed=0).facts()
    assert facts["reached_stop_error"] is True
    assert all(row["error"] > 0.05 for row in facts["rounds"][:-1])
    assert facts["rounds"][-1]["error"] <= 0.05


@KINDS
def test_equal_seeds_give_equal_noise_and_different_seeds_do_not(
    images: Images, settings: Any, tmp_path: Path
) -> None:
    poison = em(settings, max_rounds=1, augmentations=["flip_crop"], random_start=True)
    once, again, other = (float_noise(poison, images, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@KINDS
def test_bfloat16_stays_in_the_budget_and_is_recorded(images: Images, settings: Any, tmp_path: Path) -> None:
    poison = em(settings, precision="bfloat16")
    delta = poison.craft(images, seed=5)
    assert delta.facts()["precision"] == "bfloat16"
    assert 0 < int(delta.delta.abs().max()) <= 8
    noise = float_noise(poison, images, tmp_path)
    assert noise.dtype == torch.float32
    assert not torch.equal(noise, float_noise(em(settings), images, tmp_path))
    assert em(settings, precision="auto", max_rounds=1).craft(images, seed=5).facts()["precision"] in (
        "float32",
        "bfloat16",
    )


RESUMED: list[dict[str, Any]] = [
    {**SMALL, "augmentations": ["flip_crop"]},
    {**SMALL, "generator": "cct_2_3x2", "optimizer": "adamw", "train_steps": 2, "steps": 1},
    {**CLASS_WISE, "batch_size": 8, "random_start": True},
]


@pytest.mark.parametrize("settings", RESUMED, ids=["augmented", "dropout", "class_wise"])
def test_a_resumed_craft_gives_the_same_noise_bit_for_bit(
    images: Images, settings: Any, tmp_path: Path
) -> None:
    """Momentum, dropout, running statistics, batches and draws continue as without an interruption."""
    poison, file = em(settings), tmp_path / "checkpoint.pt"
    whole = float_noise(poison, images, tmp_path)

    def cut(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise PowerError

    with pytest.raises(PowerError):
        poison.craft(images, seed=5, context=CraftContext(report=cut, checkpoint=Checkpoint(file, every=0)))
    for _ in range(2):  # the second time, it was done already
        rows: list[dict[str, Any]] = []
        context = CraftContext(report=rows.append, checkpoint=Checkpoint(file, every=0))
        delta = poison.craft(images, seed=5, context=context)
        assert [row["round"] for row in rows] == [1, 2, 3]
        assert delta.facts()["rounds"] == rows
        assert torch.equal(torch.load(file, weights_only=True)["state"]["noise"], whole)


def test_a_checkpoint_is_written_when_it_is_due_and_is_for_its_own_craft(
    images: Images, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint.pt"
    em(QUICK).craft(images, seed=0, context=CraftContext(checkpoint=Checkpoint(file, every=3600)))
    assert not file.exists()
    em(QUICK).craft(images, seed=0, context=CraftContext(checkpoint=Checkpoint(file, every=0)))
    for poison, seed in ((em(QUICK), 1), (em(QUICK, steps=2), 0)):
        with pytest.raises(InputError, match="belongs to another training"):
            poison.craft(images, seed=seed, context=CraftContext(checkpoint=Checkpoint(file)))


SHARED: list[dict[str, Any]] = [
    {**SMALL, "max_rounds": 2},
    {**SMALL, "max_rounds": 1, "augmentations": ["flip_crop", "rotate"]},
    {**QUICK, "max_rounds": 2, "precision": "bfloat16"},
]


@pytest.mark.parametrize("settings", SHARED, ids=["float32", "augmented", "bfloat16"])
def test_a_noise_step_divided_among_workers_gives_the_same_bits(
    images: Images, settings: Any, tmp_path: Path
) -> None:
    poison, rows = em(settings, batch_size=6, train_steps=1), []
    whole = float_noise(poison, images, tmp_path, report=rows.append)
    for size in (2, 3):
        workers, seen = Elsewhere(size), []
        noise = float_noise(poison, images, tmp_path, workers=workers, report=seen.append)
        assert torch.equal(noise, whole)
        assert [row["error"] for row in seen] == [row["error"] for row in rows]
        assert len(workers.items) == size
        bound = 1.5 * (images.x.nbytes + whole.nbytes) / size
        assert all(len(item) < bound for item in workers.items), "a share is sent without the others"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", [SMALL, CLASS_WISE], ids=["sample_wise", "class_wise"])
def test_the_number_of_threads_changes_no_bit(
    images: Images, settings: dict[str, Any], precision: str
) -> None:
    poison = Em.parse({**settings, "precision": precision}, "test")
    noise = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        noise.append(poison.craft(images, seed=0, context=CraftContext()).delta)
        assert torch.get_num_threads() == threads
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noise[0], noise[2])


def test_workers_get_no_more_parts_than_there_are_batches(images: Images, tmp_path: Path) -> None:
    workers, poison = Elsewhere(5), em(QUICK, max_rounds=1)
    assert torch.equal(
        float_noise(poison, images, tmp_path, workers=workers), float_noise(poison, images, tmp_path)
    )
    assert len(workers.items) == 3


def test_class_wise_noise_needs_no_workers(images: Images, tmp_path: Path) -> None:
    workers = Elsewhere(2)
    noise = float_noise(em(QUICK_CLASS_WISE), images, tmp_path, workers=workers)
    assert torch.equal(noise, float_noise(em(QUICK_CLASS_WISE), images, tmp_path))
    assert workers.items == []


@KINDS
def test_gradients_flow_through_augmentations(images: Images, settings: Any) -> None:
    found = [
        em(settings, max_rounds=1, eps="32/255", augmentations=augmentations).craft(images, seed=0).delta
        for augmentations in ([], ["flip_crop"], ["cutout"], ["color_jitter"], ["rotate"], ["affine"])
    ]
    assert all(int(delta.abs().max()) <= 32 and delta.any() for delta in found)
    for i, one in enumerate(found):
        assert all(not torch.equal(one, other) for other in found[:i])


@KINDS
def test_every_batch_of_every_round_is_augmented_by_draws_of_its_own(
    images: Images, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of 3 batches, or of 2 where it is class-wise and only 20 images move the noise."""
    seen, flip_crop = [], FlipCrop.__call__

    def spy(self: FlipCrop, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        seen.append((gen.initial_seed(), y.shape))
        return flip_crop(self, x, y, gen)

    monkeypatch.setattr(FlipCrop, "__call__", spy)
    poison = em(settings, augmentations=["flip_crop"], drop_last=False)
    seen.clear()  # the validator tries it out
    poison.craft(images, seed=0)
    batches = 2 if poison.transfers else 3
    assert len(seen) == 3 * (4 + batches * poison.steps)
    assert len({seed for seed, _ in seen}) == 3 * (4 + batches)
    assert {shape[1] for _, shape in seen} == {4}, "labels are class probabilities"


def test_the_step_size_is_a_setting(images: Images, tmp_path: Path) -> None:
    for more, length in (({}, 0.8 / 255), ({"step": "2/255"}, 2 / 255)):
        noise = float_noise(em(QUICK, **more, steps=1, max_rounds=1), images, tmp_path)
        assert abs(float(noise.abs().max()) - length) < 1e-6


@pytest.mark.parametrize("kind", ["rand_augment", "trivial_augment", "uda_augment"])
def test_an_augmentation_without_a_gradient_is_refused_by_name(kind: str) -> None:
    with pytest.raises(InputError, match=rf"no gradient of single images passes '{kind}'.* use 'flip_crop'"):
        em(QUICK, augmentations=["flip_crop", kind])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_an_augmentation_that_mixes_images_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=rf"no gradient of single images passes '{kind}'.* use 'flip_crop'"):
        em(QUICK, augmentations=[kind])


def test_defaults_are_those_published_for_the_granularity() -> None:
    sample_wise, class_wise = em({}), em({"granularity": "class_wise"})
    assert (sample_wise.steps, sample_wise.share, sample_wise.stop_error) == (20, 1, 0.01)
    assert (sample_wise.shuffle, sample_wise.drop_last) == (False, False)
    assert (class_wise.steps, class_wise.share, class_wise.stop_error) == (1, 0.2, 0.1)
    assert (class_wise.shuffle, class_wise.drop_last) == (True, True)
    assert em({"granularity": "class_wise", "steps": 3}).steps == 3
    assert Em(granularity="class_wise") == class_wise
    for spec in (sample_wise, class_wise, em(QUICK, augmentations=["flip_crop"])):
        assert Poison.parse(plain(spec), "test").key == spec.key
    assert sample_wise.key != class_wise.key


def test_fewer_images_than_a_batch_are_one_batch(images: Images) -> None:
    few = images.take(torch.arange(8))
    for settings in (QUICK, {**QUICK_CLASS_WISE, "share": 1.0}):
        delta = em(settings, drop_last=True, max_rounds=1, eps="32/255").craft(few, seed=0)
        assert delta.delta.any(3).any(2).any(1).all()
    with pytest.raises(InputError, match="there are none"):
        em(QUICK).craft(images.take(torch.arange(0)), seed=0)


def test_an_epoch_has_every_row_once_or_drops_an_incomplete_batch() -> None:
    assert [rows.tolist() for rows in Epochs(5, 2, False, False, 0, 0).epoch(3)] == [[0, 1], [2, 3], [4]]
    assert [rows.tolist() for rows in Epochs(5, 2, False, True, 0, 0).epoch(3)] == [[0, 1], [2, 3]]
    epochs = Epochs(50, 8, True, False, 0, 0)
    first, second = torch.cat(list(epochs.epoch(0))), torch.cat(list(epochs.epoch(1)))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert epochs.batches == len(epochs.epoch(0)) == 7
    assert Epochs(50, 8, True, True, 0, 0).batches == 6
    assert Epochs(5, 8, True, True, 0, 0).batches == 1


def test_noise_starts_at_zero_or_uniform_in_the_budget() -> None:
    assert not begin((3, 1, 2, 2), 0.5, CPU, random=False, seed=0).any()
    noise = begin((2000, 1, 2, 2), 0.5, CPU, random=True, seed=0)
    assert -0.5 <= float(noise.min()) < -0.45
    assert 0.45 < float(noise.max()) <= 0.5
    assert noise.unique().numel() > 7000
    assert em(QUICK, random_start=True).key != em(QUICK).key


@KINDS
def test_a_diverging_generator_creates_no_data_set(images: Images, settings: Any) -> None:
    wild = em(settings, optimizer={"kind": "sgd", "lr": 1e30})
    with pytest.raises(
        DivergenceError, match=r"the generator diverged in round 1; try a smaller optimizer.lr"
    ):
        wild.craft(images, seed=0)


@pytest.mark.parametrize("eps", [0, 8, "1/300"])
def test_a_budget_below_one_level_or_above_the_range_is_refused(eps: object) -> None:
    with pytest.raises(InputError, match=r"eps must be between 1/255 .* write 8/255"):
        em({"eps": eps})


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="write `8/255`"):
        em({"eps": 0.031})
    with pytest.raises(
        InputError, match=r"a step of 0 changes nothing; leave it out for the usual share of eps"
    ):
        em({"step": 0})
    with pytest.raises(
        InputError, match=r"leave images without noise: leave `share` out, or set `granularity: class_wise`"
    ):
        em({"share": 0.5})


def test_crafting_changes_neither_images_nor_random_state(images: Images) -> None:
    before, state = images.x.clone(), torch.random.get_rng_state()
    em(QUICK, max_rounds=1, augmentations=(FlipCrop(),)).craft(images, seed=0)
    assert torch.equal(images.x, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_chain_is_crafted_from_clean_images_and_the_pixel_is_written_last(store: Store) -> None:
    noise = {"kind": "em", **QUICK, "eps": "32/255", "max_rounds": 1}
    both, ops, alone, clean = (
        DataSpec.parse({"poison": poison, "limit": 60}, "test").pinned()
        for poison in ([noise, "ops"], "ops", noise, "clean")
    )
    images = {spec.name: store.ensure(spec) for spec in (both, ops, alone, clean)}
    pixels = store.record(ops)["facts"]["ops"]["pixels"]  # type: ignore[index]
    assert len(pixels) == 10
    assert store.record(both)["facts"]["ops"]["pixels"] == pixels  # type: ignore[index]
    expected = images[alone.name].x.clone()
    assert not torch.equal(expected, images[clean.name].x)
    for pixel in pixels:
        mine = images[alone.name].y == pixel["class"]
        expected[mine, :, pixel["row"], pixel["column"]] = torch.tensor(pixel["colour"], dtype=torch.uint8)
    assert torch.equal(images[both.name].x, expected)


LONE = {"kind": "em", "generator": {"kind": "torchvision", "name": "resnet18"}, "batch_size": 4, "steps": 1}


def few(number: int) -> Images:
    x = torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(number) % 4, 4)


def test_a_generator_that_cannot_be_trained_on_a_last_batch_of_one_is_refused() -> None:
    """Before the work if the first round reaches that batch; otherwise in the round that does."""
    rows: list[dict[str, Any]] = []
    rounds = {"train_steps": 1, "stop_error": 0, "max_rounds": 2}
    first = Poison.parse({**LONE, "train_steps": 2}, "test")
    with pytest.raises(InputError, match="batch_size of the poison 4 leaves a last batch of 1 of 5 images"):
        first.craft(few(5), seed=0, context=CraftContext(report=rows.append))
    assert rows == []
    later = Poison.parse({**LONE, **rounds}, "test")
    later.check(few(5).extent)
    with pytest.raises(
        InputError, match=r"a last batch of 1 of 5 images.*write batch_size of the poison 3 or 5"
    ):
        later.craft(few(5), seed=0, context=CraftContext(report=rows.append))
    assert [row["round"] for row in rows] == [1]
    for settings, number in (
        ({"drop_last": True}, 5),
        ({"batch_size": 3}, 5),
        ({}, 6),
        ({"max_rounds": 1}, 5),
    ):
        Poison.parse({**LONE, **rounds, **settings}, "test").craft(few(number), seed=0)
