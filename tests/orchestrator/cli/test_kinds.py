"""`opsctl kinds poison em` prints the meaning, accepted values and default of each field."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.cli.field_words import PARTS
from tests.conftest import Opsctl
from trainers import Plugin, Spec
from trainers.descriptions import descriptions
from trainers.spec import specs_in

PAGES = {
    "poison em": [
        "Noise for each image or each class",
        "granularity one of sample_wise, class_wise; default sample_wise Whether each image or each class has",
        "eps fraction such as 8/255; default 8/255 Largest change of a value (paper: ε)",
        "step fraction such as 8/255, or null; default null",
        "train_steps whole number > 0; default 10",
        "stop_error number in [0, 1); default 0.01",
        "share number in (0, 1]; default 1.0",
        "shuffle true or false; default false",
        "optimizer any optimizer (opsctl kinds optimizer); default sgd",
        "augmentations list of augmentations (opsctl kinds augmentation); default []",
    ],
    "defense pgd_at": [
        "budget mapping (opsctl kinds budget); default {norm: Linf, eps: 8/255} The ball around"
    ],
    "defense erm": ["It has no fields."],
    "probe distance": ["||w_t - w_0||", "threshold number in (0, 1]; default 0.9 Training accuracy"],
    "optimizer adamw": [
        "lr number > 0; default 0.0005 Full learning rate",
        "pair of numbers in [0, 1); default [0.9,",
    ],
    "architecture timm": ["name text; required Name of the network", "options mapping; default {}"],
    "architecture cct_7_3x1": [
        "train.schedule default {kind: cosine, floor: 0.02} From the recipe of its paper"
    ],
    "source image_folder": ["root text; required Folder with train/ and test/"],
    "train": [
        "How a network is trained.",
        "architecture any architecture (opsctl kinds architecture); default resnet18",
        "augmentations list of augmentations (opsctl kinds augmentation); default [flip_crop] Random",
        "ema number in (0, 1), or null; default null Decay per step",
    ],
    "data": ["poison one, or a list of poisons (opsctl kinds poison); default [clean] The poison, or"],
    "base": [
        "evaluation mapping (opsctl kinds evaluation); default {limit: null, attacks: [], attack_limit: null}"
    ],
    "run": ["gpus_per_trial number >= 0, auto, or null; default null", "keep_gb number > 0; default 4.0"],
    "report": [
        "compare list of pairs of labels; default []",
        "claims list of mappings (opsctl kinds claims)",
    ],
    "claims": ["lower mapping from names to labels, or number; required", "says text, not empty; required"],
    "sweep": ["name text matching ^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$; required"],
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_values_defaults_and_meanings_of_all_fields(opsctl: Opsctl, page: str) -> None:
    code, out, err = opsctl("kinds", *page.split())
    assert (code, err) == (0, "")
    shown = " ".join(out.split())
    assert [text for text in PAGES[page] if text not in shown] == []


def every_page() -> Iterator[tuple[str, type[Spec]]]:
    yield from PARTS.items()
    for family, base in Plugin.families.items():
        yield from ((f"{family} {kind}", member) for kind, member in base.registry.items())


def test_every_page_loses_nothing_at_80_columns(opsctl: Opsctl, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = list(every_page())
    assert len(pages) > 60
    monkeypatch.setenv("COLUMNS", "80")
    for name, spec in pages:
        code, out, err = opsctl("kinds", *name.split())
        assert (code, err) == (0, ""), name
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out
        shown = " ".join(out.split())
        wanted = {
            *spec.written(),
            *(text for field, text in descriptions(spec).items() if field in spec.written()),
        }
        assert [text for text in wanted if text not in shown] == [], name


def test_a_spec_inside_of_another_has_a_page_too() -> None:
    nested = {
        one for _, spec in every_page() for f in spec.model_fields.values() for one in specs_in(f.annotation)
    }
    assert nested
    assert {one for one in nested if not issubclass(one, Plugin)} <= set(PARTS.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("poison emm", "unknown poison 'emm'; did you mean 'em' or 'rem'? Known: ar, clean,"),
        ("trian", "unknown family or part of a sweep file: 'trian'; did you mean 'train'"),
        ("em", "unknown family or part of a sweep file: 'em'; did you mean `poison em`?"),
        ("poisons em", "unknown family or part of a sweep file: 'poisons'; did you mean 'poison'?"),
        ("train sgd", "train is a part of the sweep file and has no kinds: write `opsctl kinds train`"),
    ],
)
def test_an_unknown_kind_is_one_error_with_the_nearest_spelling(
    opsctl: Opsctl, words: str, message: str
) -> None:
    code, out, err = opsctl("kinds", *words.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("error") == 1


def test_the_help_fits_80_columns(opsctl: Opsctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = opsctl("kinds", "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "`opsctl kinds poison em` and `opsctl kinds train` say what each field means" in " ".join(
        out.split()
    )
