"""A perturbation made elsewhere is imported exactly, or refused with the reason, the place and advice."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from poisons import CraftContext, DataSpec, Store
from poisons.arrow import read_index
from poisons.durable import StoreError
from poisons.exchange.export import export
from poisons.exchange.imported_array import WholeLevels
from poisons.exchange.importing import read_foreign, store_import
from poisons.methods.imported import Imported, digest, read_import
from poisons.methods.ops import Ops
from poisons.perturbations.delta import Delta, whole_levels
from poisons.sources.base import Reading
from poisons.sources.image_folder import ImageFolder
from trainers import Images, InputError


@pytest.fixture
def poisoned(images: Images) -> Images:
    """`images` with one pixel a class, and a change of each that fits no int8."""
    found = Ops().craft(images, seed=0).apply(images)
    found.x[:, :, 0, 0] = 255 - images.x[:, :, 0, 0]
    return found


def random(shape: tuple[int, ...], low: int = -8, high: int = 8) -> torch.Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(2))


def saved(file: Path, value: object) -> Path:
    """Save a tensor, or a mapping of tensors, in the format of the file name."""
    if file.suffix == ".pt":
        torch.save(value, file)
    elif isinstance(value, dict):
        np.savez(file, **{name: tensor.numpy() for name, tensor in value.items()})
    else:
        assert isinstance(value, torch.Tensor)
        np.save(file, value.numpy())
    return file


@pytest.mark.parametrize("form", ["image_folder", "npz"])
def test_an_export_imports_as_the_same_bytes(
    form: str, images: Images, poisoned: Images, tmp_path: Path
) -> None:
    index = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:40].sort().values
    place = export(poisoned, index, tmp_path / "given", form, split="train", record={})  # type: ignore[arg-type]
    for path in (place, tmp_path / "given") if form == "image_folder" else (place,):
        delta, report = read_foreign(path, images, index=index)
        assert delta.per == "image"
        assert delta.delta.dtype == torch.int16
        assert torch.equal(delta.apply(images).x, poisoned.x)
        assert report["warnings"] == []
        assert report["change"]["changed"] == 1
        assert report["change"]["Linf"]["max"] == (poisoned.x.int() - images.x.int()).abs().max()
        json.dumps(report, allow_nan=False)


def test_a_data_set_is_restored_from_every_export_format(store: Store, tmp_path: Path) -> None:
    spec = DataSpec.parse({"poison": "ops", "limit": 30}, "test").pinned()
    made, clean = store.ensure(spec), store.ensure(spec.clean)
    index = read_index(made.file)
    given = export(made, index, tmp_path / "npz", "npz", split="train", record={})
    made.save(tmp_path / "saved.pt")
    for path in (given, tmp_path / "saved.pt"):
        delta, report = read_foreign(path, clean, index=index)
        fingerprint = store_import(store.root, delta, report, {"from": path.name, "clean": spec.clean.name})
        poison = {"kind": "imported", "fingerprint": fingerprint}
        imported = DataSpec.parse({"poison": poison, "limit": 30}, "test").pinned()
        assert torch.equal(store.ensure(imported).x, made.x)
        facts = (store.record(imported) or {})["facts"]["imported"]
        assert facts["clean"] == spec.clean.name
    assert len(list((store.root / "imports").iterdir())) == 1, "the same perturbation is stored once"


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
@pytest.mark.parametrize("rows", [40, 4])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_float_noise_is_one_per_image_or_per_class(
    suffix: str, rows: int, last: bool, images: Images, tmp_path: Path
) -> None:
    noise = random((rows, 3, 32, 32), -2000, 2000).float() / 2000 * 8 / 255
    file = saved(tmp_path / f"noise{suffix}", noise.permute(0, 2, 3, 1) if last else noise)
    delta, report = read_foreign(file, images, eps=Fraction(8, 255))
    assert delta.per == ("image" if rows == 40 else "class")
    assert torch.equal(delta.delta, whole_levels(noise, "signed"))
    assert report["warnings"] == []
    expected = images.x.int() + delta.delta[torch.arange(40) if rows == 40 else images.y].int()
    assert torch.equal(delta.apply(images).x, expected.clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int64]
)
def test_noise_of_any_signed_type_is_accepted(dtype: torch.dtype, images: Images, tmp_path: Path) -> None:
    levels = random((40, 3, 32, 32))
    noise = levels.to(dtype) if not dtype.is_floating_point else (levels / 255).to(dtype)
    delta, _ = read_foreign(
        saved(tmp_path / "noise.pt", {"perturbation": noise, "more": torch.zeros(3)}), images
    )
    assert torch.equal(delta.delta, levels.to(torch.int8))


def test_application_decides_how_floats_are_rounded(images: Images, tmp_path: Path) -> None:
    noise = random((4, 3, 32, 32), -2000, 2000).float() / 2000 * 8 / 255
    file = saved(tmp_path / "noise.npy", noise)
    for how in ("released_em", "released_ops"):
        delta, report = read_foreign(file, images, application=how)  # type: ignore[arg-type]
        assert torch.equal(delta.delta, whole_levels(noise, how))  # type: ignore[arg-type]
        assert report["application"] == how


@pytest.mark.parametrize("channels_last", [False, True])
def test_poisoned_images_may_be_floats(
    channels_last: bool, images: Images, poisoned: Images, tmp_path: Path
) -> None:
    """As NTGA and SEP are published: whole levels or not, of the whole source or of some."""
    values = poisoned.x.float() / 255 + 0.4 / 255 * (poisoned.x < 255)
    values = values.permute(0, 2, 3, 1) if channels_last else values
    file = saved(tmp_path / "x.npy", values.contiguous())
    wanted = poisoned.x.short() - images.x.short()
    delta, report = read_foreign(file, images)
    assert torch.equal(delta.delta.short(), wanted)
    assert "read as the poisoned images" in report["warnings"][0]
    up = saved(tmp_path / "up.npy", (values + 0.5 / 255).clamp(max=1))
    truncated, _ = read_foreign(up, images, application="released_em")
    assert torch.equal(truncated.delta.short(), wanted)
    some = torch.tensor([7, 3])
    part, _ = read_foreign(file, images.take(some), index=some)
    assert torch.equal(part.delta.short(), wanted[some])
    values[3, 0, 0, 0] = -1e-8  # an error of rounding
    _, again = read_foreign(saved(tmp_path / "again.npy", values.contiguous()), images)
    assert "read as the poisoned images" in again["warnings"][0]
    values[5, 0, 0, 0] = 1.5
    with pytest.raises(InputError, match=r"row 5: the poisoned image has values outside \[0, 1\]"):
        read_foreign(saved(tmp_path / "bad.npy", values.contiguous()), images)


@pytest.mark.parametrize("kind", ["one-sided noise", "black images"])
def test_noise_is_not_taken_for_images(kind: str, images: Images, tmp_path: Path) -> None:
    noise = random((len(images), *images.shape), 0, 8)
    clean = images if kind == "one-sided noise" else Images(torch.zeros_like(images.x), images.y, 10)
    delta, report = read_foreign(saved(tmp_path / "n.npy", noise.float() / 255), clean)
    if kind == "one-sided noise":
        assert not report["warnings"]
    assert torch.equal(delta.delta.long(), noise), "the same levels either way"


def test_ambiguous_rows_are_per_image(tmp_path: Path) -> None:
    images = Images(torch.full((4, 1, 3, 5), 9, dtype=torch.uint8), torch.tensor([3, 2, 1, 0]), 4)
    delta, _ = read_foreign(saved(tmp_path / "a.npy", random((4, 3, 5)).to(torch.int8)), images)
    assert delta.per == "image"
    assert delta.delta.shape == (4, 1, 3, 5), "grey images need no axis for their channel"


def test_arrays_of_any_memory_layout_and_byte_order_are_read(images: Images, tmp_path: Path) -> None:
    levels = random((40, 3, 32, 32)).numpy()
    for number, array in enumerate(
        (np.asfortranarray(levels), levels.astype(">i4"), (levels / 255).astype(">f8"))
    ):
        np.save(tmp_path / f"{number}.npy", array)
        delta, _ = read_foreign(tmp_path / f"{number}.npy", images)
        assert np.array_equal(delta.delta.numpy(), levels)


def test_rows_with_an_index_may_be_in_any_order(images: Images, poisoned: Images, tmp_path: Path) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    where = torch.arange(40) * 2
    arrays = {"x": poisoned.x[order], "y": images.y[order]}
    file = saved(tmp_path / "a.npz", arrays | {"index": where[order]})
    delta, _ = read_foreign(file, images, index=where)
    assert torch.equal(delta.apply(images).x, poisoned.x)
    with pytest.raises(InputError, match=r"image \d+ has label \d, but the clean image there has label \d"):
        read_foreign(saved(tmp_path / "b.npz", arrays), images, index=where)
    with pytest.raises(InputError, match="40 of 40 images have no row, the first is image 1 of the source"):
        read_foreign(file, images, index=where + 1)
    with pytest.raises(InputError, match="two rows are for image 4"):
        read_foreign(saved(tmp_path / "c.npz", arrays | {"index": torch.full((40,), 4)}), images)
    with pytest.raises(InputError, match="index has 7 numbers for 40 rows; give one for each row"):
        read_foreign(saved(tmp_path / "d.npz", arrays | {"index": torch.arange(7)}), images)


def test_noise_for_a_whole_source_is_used_for_a_subset(images: Images, tmp_path: Path) -> None:
    levels, where = random((60, 3, 32, 32)).to(torch.int8), torch.arange(40) + 20
    delta, report = read_foreign(saved(tmp_path / "a.npy", levels), images, index=where)
    assert torch.equal(delta.delta, levels[20:])
    assert report["warnings"] == [
        "it has 60 rows for 40 images: row i is assumed to be image i of the source"
    ]


def test_labels_of_class_wise_noise_are_classes_or_those_of_the_images(
    images: Images, tmp_path: Path
) -> None:
    noise = random((4, 3, 32, 32)).to(torch.int8)
    for labels in (torch.arange(4), images.y):
        delta, _ = read_foreign(saved(tmp_path / "a.npz", {"noise": noise, "label": labels}), images)
        assert delta.per == "class"
    for labels, message in (
        (torch.tensor([0, 2, 1, 3]), "image 1 has label 2"),
        (torch.arange(7), "7 labels for 4"),
    ):
        with pytest.raises(InputError, match=message):
            read_foreign(saved(tmp_path / "a.npz", {"noise": noise, "label": labels}), images)


class Anything:
    pass


@pytest.mark.parametrize("name", ["object.npy", "pickle.npy", "class.pt", "numpy.pt", "object.npz"])
def test_files_that_need_pickle_are_not_read(name: str, images: Images, tmp_path: Path) -> None:
    file, ran = tmp_path / name, tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(ran),)

    if name == "class.pt":
        torch.save({"x": Anything(), "evil": Evil()}, file)
    elif name == "numpy.pt":
        torch.save({"x": np.zeros((40, 3, 32, 32), np.int8)}, file)
    elif name == "pickle.npy":
        import pickle

        file.write_bytes(pickle.dumps(Evil()))
    else:
        array = np.array([Evil()] * 3, dtype=object)
        np.savez(file, x=array) if name.endswith("z") else np.save(file, array)
    with pytest.raises(InputError, match="it needs pickle, which can run any code, so it is not read"):
        read_foreign(file, images)
    assert not ran.exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_an_empty_or_truncated_file_is_refused(suffix: str, images: Images, tmp_path: Path) -> None:
    noise = random((40, 3, 32, 32)).to(torch.int8)
    file = saved(tmp_path / f"a{suffix}", {"x": noise} if suffix == ".npz" else noise)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InputError, match=r"(cannot be read|does not hold).*; was it copied completely\?"):
        read_foreign(file, images)
    os.truncate(file, 0)
    with pytest.raises(InputError, match="is empty"):
        read_foreign(file, images)


def nan(value: float) -> torch.Tensor:
    noise = torch.zeros(40, 3, 32, 32)
    noise[17, 1, 2, 3] = value
    return noise


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nan(float("nan")), "row 17: a value is nan"),
        (nan(float("-inf")), "row 17: a value is inf"),
        (nan(-8.0), r"row 17: 8 is outside \[-1, 1\]; if these are levels of 1/255, store them as integers"),
        (nan(300).to(torch.int16), "row 17: 300 is outside -255..255"),
        (
            torch.zeros(40, 3, 32, 31),
            r"has the shape \(40, 3, 32, 31\), but the clean images are \(40, 3, 32, 32\)",
        ),
        (torch.zeros(40, 32), "expected M,3,32,32 or M,32,32,3, where M is the 40 images or the 4 classes"),
        (torch.zeros(0, 3, 32, 32), r"has the shape \(0, "),
        (torch.zeros(39, 3, 32, 32), "39 rows, but there are 40 clean images of 4 classes"),
        (torch.zeros(40, 3, 32, 32, dtype=torch.bool), "holds bool; expected floats"),
        (
            torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
            "which count as poisoned images, but there are 40",
        ),
        ({"a": torch.zeros(40, 3, 32, 32), "b": torch.zeros(40, 3, 32, 32)}, "holds a, b; name the noise"),
        ({"x": torch.zeros(40, 3, 32, 32), "y": torch.zeros(40)}, "labels and index must be whole numbers"),
        (
            {"x": torch.zeros(40, 3, 32, 32), "delta": torch.zeros(40, 3, 32, 32)},
            "holds x, delta; keep only one of",
        ),
        ([torch.zeros(40, 3, 32, 32)], "holds a list; expected a tensor"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(
    value: object, message: str, images: Images, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_foreign(saved(tmp_path / "a.pt", value), images)


def test_an_empty_place_is_refused(images: Images, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / "none").mkdir()
    for name, message in (
        ("b.npy", "there is no"),
        ("a.txt", "expected a .npy"),
        ("none", "holds no images"),
    ):
        with pytest.raises(InputError, match=message):
            read_foreign(tmp_path / name, images)


def test_doubtful_perturbations_are_imported_with_warnings(
    images: Images, poisoned: Images, tmp_path: Path
) -> None:
    x = poisoned.x.clone()
    x[images.y == 2] = 0
    delta, report = read_foreign(saved(tmp_path / "a.npy", x), images, eps=Fraction(8, 255))
    assert torch.equal(delta.apply(images).x, x)
    black, budget, *rest = report["warnings"]
    assert black == "every image of class 2 becomes a single colour: did its generator divide by zero?"
    assert budget == "its largest change is 255 levels, more than the 8 of eps 8/255"
    assert not rest
    for turned in (x.roll(1, 0), images.x.to(torch.int16)):
        _, report = read_foreign(saved(tmp_path / "b.npy", turned), images)
        assert any(
            "are its rows in the order of the clean images" in warning for warning in report["warnings"]
        )
    _, report = read_foreign(saved(tmp_path / "c.npy", images.x), images)
    assert report["warnings"] == ["it changes nothing"]


def folder(root: Path, images: Images, name: str) -> Path:
    """PNG files of RGB images, at `name`, in which k is the class, n the number."""
    for n, (x, k) in enumerate(zip(images.x, images.y.tolist(), strict=True)):
        file = root / name.format(k=k, n=n, word="abcd"[k])
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(file)
    return root


@pytest.mark.parametrize(
    "name", ["{n}.png", "{n:05}.png", "{k}/{n}.png", "{word}/{n:03}.PNG", "train/{k:03}/{n}.bmp"]
)
def test_images_in_folders_are_identified_by_number(
    name: str, images: Images, poisoned: Images, tmp_path: Path
) -> None:
    delta, report = read_foreign(folder(tmp_path, poisoned, name), images)
    assert torch.equal(delta.apply(images).x, poisoned.x)
    assert report["warnings"] == []


def test_a_folder_that_does_not_fit_is_refused(images: Images, poisoned: Images, tmp_path: Path) -> None:
    root = folder(tmp_path / "a", poisoned, "{k}/{n:03}.png")
    (root / "0" / "000.png").rename(root / "1" / "000.png")
    with pytest.raises(InputError, match=r"1/000.png is in folder '1', class 1, but .* has label 0"):
        read_foreign(root, images)
    (root / "1" / "000.png").rename(root / "0" / "4.png")
    with pytest.raises(InputError, match="two files are for image 4"):
        read_foreign(root, images)
    (root / "0" / "4.png").unlink()
    with pytest.raises(InputError, match="1 of 40 images have no file, the first is image 0"):
        read_foreign(root, images)
    Image.new("RGB", (31, 32)).save(root / "0" / "000.png")
    with pytest.raises(InputError, match=r"000.png is 32x31 but the clean image is 32x32"):
        read_foreign(root, images)
    (root / "0" / "000.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"000.png is not an image"):
        read_foreign(root, images)
    (root / "0" / "cat.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"cat.png: the name should be the image's row in the source"):
        read_foreign(root, images)
    other = folder(tmp_path / "b", poisoned.take(torch.arange(2)), "{n}.png")
    few = Images(images.x[:2, :, :16], images.y[:2], 4)
    with pytest.raises(InputError, match=r"0.png is 32x32 but the clean image is 16x32"):
        read_foreign(other, few)


def test_unneeded_or_lossy_files_give_warnings(images: Images, poisoned: Images, tmp_path: Path) -> None:
    root = folder(tmp_path, poisoned, "{n}.png")
    where = torch.arange(0, 40, 2)
    Image.open(root / "2.png").save(root / "2.jpg", quality=95)
    (root / "2.png").unlink()
    delta, report = read_foreign(root, images.take(where), index=where)
    assert torch.equal(delta.apply(images.take(where)).x[2:], poisoned.x[where][2:])
    assert report["warnings"] == [
        "20 files belong to none of the 20 clean images",
        "1 files, such as 2.jpg, are in a lossy format",
    ]


def imported(root: Path, images: Images, rows: int = 4) -> tuple[str, Delta]:
    delta = Delta(random((rows, 3, 32, 32)).to(torch.int8), "class" if rows == 4 else "image")
    report = {"warnings": ["w"], "labels_sha256": "0" * 16, "change": {}, "per": delta.per}
    return store_import(root, delta, report, {"from": "a.npy", "clean": "digits"}), delta


def test_importing_twice_is_idempotent(images: Images, tmp_path: Path) -> None:
    fingerprint, delta = imported(tmp_path, images)
    place = tmp_path / "imports" / fingerprint
    before = {file: file.stat().st_mtime_ns for file in place.iterdir()}
    assert {file.name for file in before} == {"perturbation.arrow", "record.json"}
    assert imported(tmp_path, images)[0] == fingerprint
    assert before == {file: file.stat().st_mtime_ns for file in place.iterdir()}
    assert [file.name for file in place.parent.iterdir()] == [fingerprint]
    assert len({fingerprint, imported(tmp_path, images, 40)[0]}) == 2
    same = Delta(delta.delta, "image")
    assert store_import(tmp_path, same, {}, {}) != fingerprint


def test_a_damaged_import_is_refused_and_repaired_by_importing_again(images: Images, tmp_path: Path) -> None:
    fingerprint, delta = imported(tmp_path, images)
    file = tmp_path / "imports" / fingerprint / "perturbation.arrow"
    poison, context = (
        Imported(fingerprint=fingerprint, per="class"),
        CraftContext(imports=tmp_path / "imports"),
    )
    assert torch.equal(poison.craft(images, seed=0, context=context).delta, delta.delta)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(
        InputError, match=f"perturbation {fingerprint} is missing from the store or damaged: import it"
    ):
        poison.craft(images, seed=0, context=context)
    imported(tmp_path, images)
    assert torch.equal(poison.craft(images, seed=0, context=context).delta, delta.delta)


def test_an_import_for_other_images_is_refused(images: Images, tmp_path: Path) -> None:
    context = CraftContext(imports=tmp_path / "imports")
    fingerprint, _ = imported(tmp_path, images, 40)
    with pytest.raises(InputError, match=r"is for other images .digits., whose labels come in another order"):
        Imported(fingerprint=fingerprint).craft(images, seed=0, context=context)
    with pytest.raises(InputError, match="write `per: image`, not `per: class`"):
        Imported(fingerprint=fingerprint, per="class").craft(images, seed=0, context=context)
    with pytest.raises(InputError, match="import it with `opsctl import"):
        Imported(fingerprint="a" * 16).craft(images, seed=0, context=context)
    with pytest.raises(InputError, match="import it with `opsctl import"):
        Imported(fingerprint="a" * 16).craft(images, seed=0)
    with pytest.raises(InputError, match="fingerprint: "):
        DataSpec.parse({"poison": {"kind": "imported", "fingerprint": "../../x"}}, "test")


def test_class_wise_imports_can_be_applied_to_other_images(images: Images) -> None:
    poison = {"kind": "imported", "fingerprint": "a" * 16}
    with pytest.raises(InputError, match="one change per image"):
        DataSpec.parse({"poison": poison, "crafted_on": "digits"}, "test")
    DataSpec.parse({"poison": poison | {"per": "class"}, "crafted_on": "digits"}, "test")


def test_an_import_that_cannot_be_written_leaves_nothing(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("poisons.exchange.importing.write_whole", full)
    with pytest.raises(StoreError, match=r"No space left on device.*it needs about 1 MB"):
        imported(tmp_path, images)
    assert list((tmp_path / "imports").iterdir()) == []


def test_one_noise_can_be_imported_for_two_clean_sets(images: Images, tmp_path: Path) -> None:
    delta = Delta(torch.ones(images.x.shape, dtype=torch.int8))
    reports = ({"labels_sha256": digest(labels)} for labels in (images.y, images.y.flip(0)))
    first, second = (store_import(tmp_path, delta, report, {}) for report in reports)
    assert first != second


def test_an_import_keeps_its_origin(images: Images, tmp_path: Path) -> None:
    fingerprint, _ = imported(tmp_path, images)
    place = tmp_path / "imports" / fingerprint
    found = read_import(place)
    assert found is not None
    assert found.facts() == {"warnings": ["w"], "labels_sha256": "0" * 16, "from": "a.npy", "clean": "digits"}
    record = json.loads((place / "record.json").read_text())
    assert record["change"] == {}
    assert record["environment"]["versions"]["torch"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_a_universal_perturbation_is_one_row_for_all_images(
    dtype: torch.dtype, last: bool, images: Images, store: Store, tmp_path: Path
) -> None:
    levels = random((1, 3, 32, 32))
    noise = (levels / 255).to(dtype) if dtype.is_floating_point else levels.to(dtype)
    file = saved(tmp_path / "noise.npy", noise.permute(0, 2, 3, 1) if last else noise)
    delta, report = read_foreign(file, images)
    assert (delta.per, report["per"], report["warnings"]) == ("universal", "universal", [])
    assert torch.equal(delta.apply(images).x, (images.x.int() + levels).clamp(0, 255).to(torch.uint8))
    fingerprint = store_import(store.root, delta, report, {})
    poison = {"kind": "imported", "fingerprint": fingerprint, "per": "universal"}
    spec = DataSpec.parse({"poison": poison, "limit": 20, "crafted_on": "digits"}, "test").pinned()
    made, clean = store.ensure(spec), store.ensure(spec.clean)
    assert torch.equal(made.x, (clean.x.int() + levels).clamp(0, 255).to(torch.uint8))
    with pytest.raises(InputError, match=r"\(one for all\) cannot be applied to images"):
        delta.apply(Images(images.x[:, :1], images.y, 4))


@pytest.mark.parametrize("by_torch", [False, True])
def test_the_documented_conversion_of_a_pickle_works(
    by_torch: bool, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = random((40, 3, 32, 32)).to(torch.int8)
    file = tmp_path / "noise.pkl"
    torch.save(levels, file) if by_torch else file.write_bytes(pickle.dumps(levels.numpy()))
    with pytest.raises(InputError, match=r"is a pickle: .* not read") as refused:
        read_foreign(file, images)
    lines = [line.strip() for line in str(refused.value).splitlines()[1:]]
    assert len(lines) == 2
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    delta, _ = read_foreign(tmp_path / "noise.npy", images)
    assert torch.equal(delta.delta, levels)


NAMED = ["cat/b.png", "cat/deep/a.png", "dog/a.png", "dog/c.x.png"]


def source_of(images: Images, names: list[str], class_names: list[str]) -> Reading:
    y = torch.tensor([class_names.index(name.split("/")[0]) for name in names])
    return Reading(y, len(class_names), images.take, tuple(class_names), tuple(names))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
def test_a_mirrored_tree_is_matched_by_the_names_of_its_files(
    suffix: str, images: Images, poisoned: Images, tmp_path: Path
) -> None:
    reading = source_of(images, NAMED, ["cat", "dog"])
    clean = Images(images.x[:4], reading.y, 2)
    for name, x in zip(NAMED, poisoned.x[:4], strict=True):
        file = (tmp_path / "train" / name).with_suffix(suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(file)
    delta, report = read_foreign(tmp_path, clean, reading=reading)
    assert torch.equal(delta.apply(clean).x, poisoned.x[:4])
    assert (report["matched_by"], report["warnings"]) == ("name", [])
    some = torch.tensor([1, 3])
    delta, report = read_foreign(tmp_path, clean.take(some), index=some, reading=reading)
    assert torch.equal(delta.apply(clean.take(some)).x, poisoned.x[some])
    assert report["warnings"] == ["2 files belong to none of the 2 clean images"]
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "b").with_suffix(suffix).unlink()
    with pytest.raises(
        InputError, match=r"1 of 4 images have no file, the first is image 0 of the source, cat/b\.png"
    ):
        read_foreign(tmp_path, clean, reading=reading)


def test_folders_have_the_classes_that_the_source_assigns(images: Images, tmp_path: Path) -> None:
    """Names that are numbers sort as text in torchvision: the folder 10 is class 2 there."""
    for split in ("train", "test"):
        for row in range(33):
            place = tmp_path / "source" / split / str(row // 3)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.x[row].permute(1, 2, 0).numpy()).save(place / f"i{row:02}.png")
    source = ImageFolder(root=str(tmp_path / "source"))
    clean, reading = source.load("train"), source.open("train")
    assert reading.class_names[:4] == ("0", "1", "10", "2")
    names, poisoned = [reading.class_names[k] for k in clean.y.tolist()], clean.x ^ 1

    def tree(name: str, folders: list[str]) -> Path:
        for row, label in enumerate(folders):
            (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
            x = poisoned[row].permute(1, 2, 0).numpy()
            Image.fromarray(x).save(tmp_path / name / label / f"{row:02}.png")
        return tmp_path / name

    for given in (tree("names", names), tree("labels", [f"{k:02}" for k in clean.y.tolist()])):
        delta, report = read_foreign(given, clean, reading=reading)
        assert torch.equal(delta.apply(clean).x, poisoned)
        assert (report["matched_by"], report["warnings"]) == ("row number", [])
    with pytest.raises(InputError, match=r"is in folder '2', class 3, but the clean image .* has label 2"):
        read_foreign(tree("wrong", [str(k) for k in clean.y.tolist()]), clean, reading=reading)
    with pytest.raises(InputError, match=r"holds the folder 'x0', but no class .* did you mean '0'"):
        read_foreign(tree("unknown", [f"x{k}" for k in clean.y.tolist()]), clean, reading=reading)


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """How a .npy file begins."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def archive(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in members.items():
            whole.writestr(name, content)
    return file


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.npy": b"garbage"}, r"x\.npy in it is not a numpy array"),
        ({"x.npy": b""}, r"x\.npy in it is not a numpy array"),
        (
            {"x.npy": header((40, 3, 32, 32)) + b"few"},
            r"claims the shape \(40, 3, 32, 32\) but does not hold",
        ),
        ({"x.npy": header((2**40, 3, 32, 32))}, "does not hold that many"),
        ({"x.npy": header((-1, 3, 32, 32))}, "does not hold that many"),
        ({"x.npy": header((40, 3, 32, 32), "|O") + bytes(8 * 40 * 3072)}, "it needs pickle"),
        ({"x.npy": header((40, 3, 32, 32), "<M8[s]") + bytes(8 * 40 * 3072)}, "holds datetime64"),
        ({"x.npy": header((1, 3, 3200, 3200)) + bytes(3 * 3200**2)}, r"has the shape \(1, 3, 3200, 3200\)"),
        ({"x.npy": header((40, 3072)) + bytes(40 * 3072)}, r"has the shape \(40, 3072\)"),
        ({"x.npy": header(()) + b"1"}, r"has the shape \(\)"),
        ({"readme.txt": b"noise"}, "holds nothing; name the noise"),
        (
            {"x.npy": header((1, 3, 32, 32)) + bytes(3072), "y.npy": header((1,), "<f4") + bytes(4)},
            "labels and index must be whole numbers, found y of float32",
        ),
        (
            {"x.npy": header((1, 3, 32, 32)) + bytes(3072), "index.npy": header((2**24,)) + bytes(2**24)},
            "at most 10,000,000 rows are read",
        ),
    ],
)
def test_a_member_that_is_no_array_of_images_is_refused_by_its_header(
    members: dict[str, bytes], message: str, images: Images, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_foreign(archive(tmp_path / "a.npz", members), images)


BOMB = """
import resource, sys, torch
from poisons.exchange.importing import read_foreign
from trainers import Images, InputError
images = Images(torch.zeros(40, 3, 32, 32, dtype=torch.uint8), torch.arange(40) % 4, 4)
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    delta, report = read_foreign(Path(sys.argv[1]), images)
    print(tuple(delta.delta.shape))
except InputError as error:
    print(str(error)[:300])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def memory_of(path: Path) -> tuple[str, int]:
    """The output of an import in a process of its own, and its memory in MB."""
    run = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True)
    *said, megabytes = run.stdout.splitlines()
    return said[0], int(megabytes)


def test_only_the_needed_rows_of_a_very_long_array_are_read(tmp_path: Path) -> None:
    """3 MB of zip that would be 3 GB of images."""
    head, rows = header((1_000_000, 3, 32, 32)), 1_000_000
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as whole,
        whole.open("x.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(head)
        for _ in range(rows // 10_000):
            stream.write(bytes(10_000 * 3072))
    assert (tmp_path / "bomb.npz").stat().st_size < 4e6
    said, megabytes = memory_of(tmp_path / "bomb.npz")
    assert said == "(40, 3, 32, 32)"
    assert megabytes < 150


def test_an_image_of_another_size_is_refused_by_its_header(tmp_path: Path, images: Images) -> None:
    """8 kB of PNG that would be 190 MB."""
    folder(tmp_path / "bombs", images, "{n}.png")
    Image.new("1", (7_000, 9_000)).save(tmp_path / "bombs" / "7.png")
    said, megabytes = memory_of(tmp_path / "bombs")
    assert "7.png is 9000x7000 but the clean image is 32x32" in said
    assert megabytes < 150


IMPORT = """
import resource, sys, torch
from pathlib import Path
from poisons.exchange.importing import read_foreign
from trainers import Images
rows = int(sys.argv[2])
images = Images(torch.full((rows, 3, 32, 32), 100, dtype=torch.uint8), torch.arange(rows) % 4, 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
delta, report = read_foreign(Path(sys.argv[1]), images)
print(delta.delta.nbytes)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def import_of(array: np.ndarray, path: Path) -> tuple[int, int]:
    """The bytes of an array or of what is kept of it, whichever are more, and those that importing took."""
    np.save(path, array)
    run = subprocess.run(
        [sys.executable, "-c", IMPORT, str(path), str(len(array))], capture_output=True, text=True, check=True
    )
    kept, peak = map(int, run.stdout.split())
    return max(array.nbytes, kept), peak


@pytest.mark.parametrize("how", ["images", "floats"])
def test_importing_takes_at_most_twice_the_memory_of_the_data(how: str, tmp_path: Path) -> None:
    """By how it grows: libraries take the same however many images there are."""
    sizes, peaks = [], []
    for rows in (1_500, 7_500):
        noise = np.random.default_rng(0).integers(-8, 9, (rows, 3, 32, 32))
        array = (noise / 255).astype("float32") if how == "floats" else (100 + noise).astype("uint8")
        size, peak = import_of(array, tmp_path / "a.npy")
        sizes.append(size)
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 2 * (sizes[1] - sizes[0])


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "cycle"])
def test_pipes_and_devices_are_refused_without_blocking(
    kind: str, name: str, images: Images, tmp_path: Path
) -> None:
    path = special(tmp_path / name, kind)
    with pytest.raises(InputError, match=r"not an ordinary file|there is no|expected a \.npy"):
        read_foreign(path, images)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "cycle"])
def test_pipes_among_images_are_refused_without_blocking(
    kind: str, images: Images, poisoned: Images, tmp_path: Path
) -> None:
    root = folder(tmp_path / "a", poisoned, "{n}.png")
    (root / "3.png").unlink()
    special(root / "3.png", kind)
    with pytest.raises(
        InputError, match=r"3\.png (has the name of an image but is not a file|is a link to .*does not exist)"
    ):
        read_foreign(root, images)


def special(path: Path, kind: str) -> Path:
    """Something that is no file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket is short
            server.bind(path.name)
            os.chdir(here)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    return path


@pytest.mark.parametrize("large", [False, True], ids=["int8", "int16"])
@pytest.mark.parametrize("rows", ["all", "some"])
def test_levels_survive_the_widening_to_int16(large: bool, rows: str) -> None:
    values = random((300, 1, 7, 5), -128, 127).to(torch.int16)
    if large:
        values[-1 if rows == "all" else 100] = 300 - 512
    whole = WholeLevels(tuple(values.shape))
    for part in values.split(37):
        whole.append(part)
    assert whole.values().dtype == (torch.int16 if large else torch.int8)
    assert torch.equal(whole.values().to(torch.int16), values)


def test_indexed_rows_are_found_among_many(images: Images, tmp_path: Path) -> None:
    noise = random((900, 3, 32, 32)).to(torch.int8)
    index = torch.randperm(900, generator=torch.Generator().manual_seed(3))
    where = torch.arange(40) * 20
    file = saved(tmp_path / "a.npz", {"x": noise, "index": index, "y": (index // 20) % 4})
    delta, report = read_foreign(file, images, index=where)
    assert report["warnings"] == []
    place = {int(row): at for at, row in enumerate(index)}
    assert torch.equal(delta.delta, noise[[place[int(row)] for row in where]])


def test_a_tensor_without_data_in_the_file_is_refused(images: Images, tmp_path: Path) -> None:
    """One number, seen as 100 billion."""
    torch.save(torch.zeros(1, dtype=torch.int8).expand(2**25, 3, 32, 32), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 2000
    with pytest.raises(InputError, match=r"it claims a tensor of \(33554432, 3, 32, 32\)"):
        read_foreign(tmp_path / "a.pt", images)
