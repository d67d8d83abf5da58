"""A spec's key names its content, however it was written, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator.planning.spec
import poisons  # noqa: F401  (its members join their families)
from trainers import InputError, Plugin, Spec, TrainSpec
from trainers.descriptions import descriptions
from trainers.spec import PATTERNS, Eps, flatten, identity, plain


class Part(Spec):
    size: int = 1


class Whole(Spec):
    part: Part = Part()
    rate: float = 0.5
    many: tuple[Part, ...] = ()


class Budgeted(Spec):
    eps: Eps = Fraction(8, 255)


def test_equal_content_has_one_key_however_it_is_written() -> None:
    keys = {
        Whole.parse(text, "test").key
        for text in ({}, {"rate": 0.5}, {"part": {"size": 1}}, {"part": {"size": 1.0}, "many": []})
    }
    assert len(keys) == 1
    assert Whole.parse({"rate": 1}, "test").key == Whole.parse({"rate": 1.0}, "test").key
    assert Whole.parse({"rate": -0.0}, "test").key == Whole.parse({"rate": 0.0}, "test").key


def test_different_content_has_different_keys() -> None:
    texts = [
        {},
        {"rate": 0.25},
        {"part": {"size": 2}},
        {"many": [{}]},
        {"many": [{}, {}]},
        {"many": [{"size": 2}]},
    ]
    assert len({Whole.parse(text, "test").key for text in texts}) == len(texts)


def test_a_new_field_with_a_default_changes_no_key() -> None:
    class Longer(Whole):
        late: int = 7

    assert Longer().key == Whole().key


def test_a_raised_version_changes_the_key_even_inside_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Whole().key
    monkeypatch.setattr(Part, "version", 2)
    assert Whole().key != before
    assert identity(Whole()) == {"part": {"version": 2}}


def test_values_without_a_stable_form_are_refused() -> None:
    for value in (object(), {1: 2}, float("nan"), {3, 4}, b"bytes"):
        with pytest.raises(TypeError, match="stable plain form"):
            identity(value)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_budgets_are_exact_fractions(top: int, bottom: int) -> None:
    spec = Budgeted.parse({"eps": f"{top}/{bottom}"}, "test")
    assert spec.eps == Fraction(top, bottom)
    assert Budgeted.parse(plain(spec), "test") == spec


@pytest.mark.parametrize("eps", [0.031, "0.031", "8/0", "-1/255", "8 / 255 x", True, None, [8, 255]])
def test_a_budget_that_is_not_a_fraction_is_refused_with_advice(eps: Any) -> None:
    with pytest.raises(InputError, match=r"eps: .*(8/255|1/2)"):
        Budgeted.parse({"eps": eps}, "test")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"architecture": "resnet81"}, "architecture: unknown architecture 'resnet81'; did you mean 'resnet18'"),
        ({"architecture": {"kind": "resnet18", "widht": 8}}, "architecture: unknown field of 'resnet18': 'widht'; did"),
        ({"architecture": {"depth": 28}}, "architecture: unknown field of 'resnet18', the default architecture: 'depth'; did you mean another kind. {kind: wide_resnet, depth: ...}"),
        ({"optimizer": {"lrr": 1}}, "optimizer: unknown field of 'sgd', the default optimizer: 'lrr'; did you mean 'lr'"),
        ({"augmentations": {"1": {"pad": 2}}}, "augmentations has no item 1: by default it has 1"),
        ({"augmentations": [{"pad": 2}]}, "augmentations.0: this augmentation needs `kind`, one of: flip_crop"),
        ({"architecture": {"kind": "resnet18", "width": 0}}, "architecture.width: .*greater than 0, found 0"),
        ({"architecture": {"kind": "wide_resnet", "depth": 27}}, "architecture.depth: depth must be 6·n . 4"),
        ({"architecture": 3}, "architecture: expected a kind of architecture"),
        ({"epoch": 3}, "unknown field: 'epoch'; did you mean 'epochs'"),
        ({"augmentations": ["flipcrop"]}, "augmentations.0: unknown augmentation 'flipcrop'; did you mean 'flip_crop'"),
        ({"defense": {"kind": "pgd_at", "budget": {"norm": "inf"}}}, "defense.budget.norm: .*'Linf' or 'L2'"),
        ({"defense": {"kind": "pgd_at", "budget": {"eps": 0.03}}}, "defense.budget.eps: a budget is a fraction"),
        ({"defense": {"kind": "pgd_at", "eps": "8/255"}}, "defense: unknown field of 'pgd_at': 'eps'; did you mean `budget: {eps: ...}`"),
        ({"defense": {"kind": "pgd_at", "epsilon": "8/255"}}, "'epsilon'; did you mean `budget: {eps: ...}`"),
        ({"defense": {"eps": "8/255"}}, "unknown field of 'erm', the default defense: 'eps'; did you mean another kind. .*{kind: pgd_at, budget: {eps: ...}}"),
        ({"defense": {"kind": "pgd_at", "budget": "8/255"}}, "defense.budget: a budget is a radius and its norm, found '8/255'; write {eps: 8/255}"),
        ({"defense": {"kind": "pgd_at", "budget": {"norm": "linf"}}}, "norm: .*found 'linf'; did you mean 'Linf'"),
        ({"defense": {"kind": "pgd_at", "budget": {"norm": "L-inf"}}}, "norm: .*found 'L-inf'; did you mean 'Linf'"),
        ({"defense": {"kind": "pgd_at", "budget": {"norm": "inf"}}}, "norm: .*found 'inf'; did you mean 'Linf'"),
        ({"defense": {"kind": "pgd_at", "budget": {"norm": "l2"}}}, "norm: .*found 'l2'; did you mean 'L2'"),
        ({"precision": "bf16"}, "precision: .*found 'bf16'; did you mean 'bfloat16'"),
        ({"lr": 0.1}, "unknown field: 'lr'; did you mean `optimizer: {lr: ...}`"),
        ({"batchsize": 8}, "unknown field: 'batchsize'; did you mean 'batch_size'"),
        ({"epochs": [1, 2]}, "epochs: .*found .1, 2.; to try several values, make it an axis of a sweep's grid"),
        ({"optimizer": {"lr": {"min": 0.1, "max": 1}}}, "optimizer.lr: .*; to try several values, make it an axis"),
        ({"defense": ["erm", "pgd_at"]}, "erm, plain training, cannot be combined .*; to try several values, make it an axis"),
        ({"epochs": True}, "epochs: expected a whole number, found true"),
        ({"epochs": "2"}, "epochs: expected a whole number, found '2'"),
        ({"epochs": 2.5}, "epochs: expected a whole number, found 2.5"),
        ({"optimizer": {"lr": "0.1"}}, "optimizer.lr: expected a number, found '0.1'"),
        ({"optimizer": {"lr": True}}, "optimizer.lr: expected a number, found true"),
        ({"optimizer": {"nesterov": 2}}, "optimizer.nesterov: .*, found 2"),
        ({"clip_norm": "1"}, "clip_norm: expected a number, found '1'"),
        ({"augmentations": [{"kind": "flip_crop", "pad": False}]}, "augmentations.0.pad: expected a whole number, found false"),
        ({"augmentations": 3}, "augmentations: expected a list, found 3"),
        ({"augmentations": None}, "augmentations: expected a list, found null"),
        ({"defense": None}, "defense: expected a kind of defense, .*, found null"),
        ({"defense": []}, "defense: an empty list: write erm for plain training"),
        ({"start": {"kind": "trial", "of": "x"}}, "start.of: expected a key of 16 digits from 0-9 and a-f, found 'x'"),
        ({"defense": {"kind": "pgd_at", "step": 0}}, "defense.step: a step of 0 changes nothing; leave it out"),
        ({"defense": {"kind": "fast_at", "step": "0/255"}}, "defense.step: a step of 0 changes nothing"),
        ({"defense": {"kind": "trades", "step": 0}}, "defense.step: a step of 0 changes nothing"),
        ({"precision": 3}, "precision: expected 'auto', .*, found 3"),
        ("resnet18", "expected a mapping with some of the fields architecture, .*; found 'resnet18'"),
        ({"schedule": {"kind": "multi_step", "milestones": [1.5]}}, "schedule.milestones: milestones are shares of the training"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_place_and_the_nearest_spelling(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        TrainSpec.parse(data, "sweep.yaml")
    assert str(error.value).startswith("sweep.yaml: ")
    assert "\n" not in str(error.value)


def test_every_pattern_has_words() -> None:
    fields = [field for spec in every(Spec) for field in spec.model_fields.values()]
    patterns = {found for field in fields for found in re.findall(r"pattern='([^']*)'", repr(field))}
    assert patterns == set(PATTERNS)


def every(spec: type[Spec]) -> Iterator[type[Spec]]:
    for one in spec.__subclasses__():
        yield one
        yield from every(one)


MEMBERS = [member for base in Plugin.families.values() for member in base.registry.values()]


def test_every_family_has_members() -> None:
    training = {"architecture", "augmentation", "defense", "optimizer", "schedule", "attack", "start"}
    assert training | {"probe", "poison", "source"} == set(Plugin.families)
    assert all(base.registry for base in Plugin.families.values())


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: f"{m.family}-{m.kind}")
def test_every_member_survives_dump_and_load(member: type[Plugin]) -> None:
    required = {name: f"no/{name}" for name, field in member.model_fields.items() if field.is_required()}
    fingerprint = {"fingerprint": "f"} if member.family == "source" else {}
    fingerprint |= {"digest": "0" * 64} if "digest" in member.model_fields else {}
    required |= {name: member.smoke[name] for name in required if name in member.smoke}
    for settings in ({}, member.smoke):
        spec = member.parse({**required, **fingerprint, **settings}, "test")
        base = Plugin.families[member.family]
        again = base.parse(plain(spec), "test")
        assert again == spec
        assert again.key == spec.key
        assert type(again) is member


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: f"{m.family}-{m.kind}")
def test_every_member_has_a_docstring_of_its_own(member: type[Plugin]) -> None:
    assert member.__doc__
    assert member.__doc__ != Plugin.families[member.family].__doc__


def shipped(base: type[Spec] = Spec) -> Iterator[type[Spec]]:
    """The specs of the packages, without those of tests."""
    for spec in base.__subclasses__():
        if spec.__module__.partition(".")[0] in ("trainers", "poisons", "orchestrator"):
            yield spec
        yield from shipped(spec)


def test_every_field_of_every_spec_has_a_description() -> None:
    specs = {*shipped()}
    assert orchestrator.planning.spec.SweepSpec in specs
    assert set(MEMBERS) <= specs
    fields = {
        f"{spec.__name__}.{name}": descriptions(spec).get(name)
        for spec in specs
        for name in spec.model_fields
    }
    assert len(fields) > 180
    assert [name for name, text in fields.items() if not text] == []
    assert [name for name, text in fields.items() if not re.fullmatch(r"[^\n]{1,101}\.", text or "")] == []


def test_a_description_is_inherited_and_can_be_replaced() -> None:
    class Base(Spec):
        """Not a field."""

        constant: ClassVar[int] = 1
        """Nor is this."""
        first: int = 1
        """The base's."""
        second: int = 2
        """Replaced."""

    class Derived(Base):
        first: int = 3  # another default, the same meaning
        second: int = 4
        """Its own."""
        third: int = 5

        def method(self) -> None:
            """Not a field either."""

    assert descriptions(Derived) == {"first": "The base's.", "second": "Its own."}


def test_two_members_cannot_have_one_name() -> None:
    with pytest.raises(TypeError, match="two members"):
        type("Again", (Plugin.families["poison"],), {}, kind="clean")


def test_leaves_have_dotted_paths() -> None:
    flat = flatten(plain(TrainSpec.parse({"architecture": {"kind": "wide_resnet", "width": 4}}, "test")))
    assert flat["architecture.width"] == 4
    assert flat["augmentations.0.kind"] == "flip_crop"


@pytest.mark.parametrize("first", [0, "0", "00"])
def test_an_item_of_a_default_list_is_changed_however_its_index_is_written(first: object) -> None:
    changed = TrainSpec.parse({"augmentations": {first: {"pad": 9}}}, "test")
    assert changed == TrainSpec.parse({"augmentations": [{"kind": "flip_crop", "pad": 9}]}, "test")
    with pytest.raises(InputError, match=r"unknown field of 'flip_crop', .*: 'padding'; did you mean 'pad'"):
        TrainSpec.parse({"augmentations": {first: {"padding": 9}}}, "test")


def test_an_item_of_a_default_list_is_changed_once() -> None:
    with pytest.raises(InputError, match="augmentations has an item twice: 0, 00"):
        TrainSpec.parse({"augmentations": {"0": {"pad": 9}, "00": {"pad": 8}}}, "test")
