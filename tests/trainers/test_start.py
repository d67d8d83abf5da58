"""A training that starts from given weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import CPU
from trainers import Images, InputError, TrainSpec, fit
from trainers.features import head_of
from trainers.loop import Training, initial_weights
from trainers.probe import Finding, ProbeRun, Subject
from trainers.probes.deep_feature_reweighting import DeepFeatureReweighting
from trainers.probes.distance import Distance
from trainers.start import begin_from
from trainers.starts.weights import WeightsFile
from trainers.trial import Trial

RESNET: dict[str, Any] = {
    "architecture": {"kind": "resnet18", "width": 4},
    "augmentations": [],
    "epochs": 1,
    "batch_size": 20,
    "precision": "float32",
}


def network(seed: int, num_classes: int = 4) -> nn.Module:
    return TrainSpec.parse(RESNET, "test").network(num_classes=num_classes, shape=(3, 32, 32), seed=seed)


def spec(file: Path, **more: Any) -> TrainSpec:
    return TrainSpec.parse({**RESNET, "start": {"kind": "weights", "path": str(file), **more}}, "test")


def begun(found: TrainSpec, images: Images) -> dict[str, torch.Tensor]:
    weights = initial_weights(found, images)
    return Training.begin(found, images, seed=1, device=CPU, start=weights).model.state_dict()


WRITERS = {
    "state_dict": lambda model: model.state_dict(),
    "bare": lambda model: model.net.state_dict(),
    "parallel": lambda model: {f"module.{name}": value for name, value in model.net.state_dict().items()},
    "checkpoint": lambda model: {"epoch": 3, "state_dict": model.net.state_dict()},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_weights_of_a_file_are_the_first_ones(writer: str, images: Images, tmp_path: Path) -> None:
    file, model = tmp_path / "weights.pt", network(7)
    torch.save(WRITERS[writer](model), file)
    found = begun(spec(file), images)
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_safetensors(images: Images, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    file, model = tmp_path / "weights.safetensors", network(7)
    save_file(model.state_dict(), file)
    found = begun(spec(file), images)
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_a_last_layer_of_other_classes_is_drawn_anew(images: Images, tmp_path: Path) -> None:
    file, model = tmp_path / "weights.pt", network(7, num_classes=9)
    torch.save(model.state_dict(), file)
    found, drawn = begun(spec(file), images), network(1).state_dict()
    head = head_of(network(1), images)
    for name, value in found.items():
        wanted = drawn if name.rpartition(".")[0] == head else model.state_dict()
        assert torch.equal(value, wanted[name])


def test_training_goes_on_from_there(images: Images, tmp_path: Path) -> None:
    first = fit(TrainSpec.parse({**RESNET, "epochs": 2}, "test"), images, images, seed=0, device=CPU)
    file = tmp_path / "weights.pt"
    torch.save(first.model.state_dict(), file)
    started = fit(spec(file), images, images, seed=3, device=CPU)
    given = fit(
        TrainSpec.parse(RESNET, "test"), images, images, seed=3, device=CPU, start=first.model.state_dict()
    )
    assert started.history == given.history
    assert started.history != fit(TrainSpec.parse(RESNET, "test"), images, images, seed=3, device=CPU).history


def test_only_the_last_layer_is_trained(images: Images, tmp_path: Path) -> None:
    file, model = tmp_path / "weights.pt", network(7)
    torch.save(model.state_dict(), file)
    found = fit(spec(file, layers="last"), images, images, seed=0, device=CPU).model.state_dict()
    head = head_of(model, images)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(found[name], value)}
    assert moved == {f"{head}.weight", f"{head}.bias"}  # running statistics stay as well


@pytest.mark.parametrize(
    "defense",
    [
        {"kind": "pgd_at", "steps": 1},
        {"kind": "pgd_at", "steps": 1, "mode": "train"},
        {"kind": "fast_at", "mode": "train"},
        {"kind": "dat", "steps": 1},
        {"kind": "trades", "steps": 1},
        {"kind": "ueraser", "draws": 2},
    ],
    ids=str,
)
def test_defenses_train_the_last_layer_alone(defense: dict[str, Any], images: Images, tmp_path: Path) -> None:
    """Running statistics stay, too."""
    file, model = tmp_path / "weights.pt", network(7)
    torch.save(model.state_dict(), file)
    settings = {**RESNET, "defense": defense, "ema": 0.5}
    found = TrainSpec.parse(
        {**settings, "start": {"kind": "weights", "path": str(file), "layers": "last"}}, "test"
    )
    trained = fit(found, images, images, seed=0, device=CPU).model.state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.allclose(trained[name], value)}
    assert moved == {f"{head_of(model, images)}.{part}" for part in ("weight", "bias")}


def test_probes_get_an_untrained_network_whatever_the_training_began_from(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.pt"
    torch.save(network(7).state_dict(), file)
    start = {"start": {"kind": "weights", "path": str(file)}}
    found: list[nn.Module] = []

    def run(self: DeepFeatureReweighting, subject: Subject) -> Finding:
        found.append(subject.untrained())
        return Finding({})

    monkeypatch.setattr(DeepFeatureReweighting, "run", run)
    trial = Trial(train=TrainSpec.parse({**RESNET, **start}, "test"), seed=3)
    runs = [ProbeRun("control", DeepFeatureReweighting(), {"clean": images})]
    trial.run_probes(network(7).eval(), images, images, runs, device=CPU, history=[])
    drawn = trial.train.network(num_classes=4, shape=images.shape, seed=3)
    for (name, value), wanted, began in zip(
        found[0].named_parameters(), drawn.parameters(), network(7).parameters(), strict=True
    ):
        assert torch.equal(value, wanted), name
        assert value.ndim < 4 or not torch.equal(value, began), name


def test_a_network_without_a_linear_end_has_no_last_layer(images: Images) -> None:
    squeeze = {"architecture": {"kind": "torchvision", "name": "squeezenet1_1"}}
    found = TrainSpec.parse(
        {**RESNET, **squeeze, "start": {"kind": "trial", "of": "0" * 16, "layers": "last"}}, "x"
    )
    with pytest.raises(InputError, match="does not end with a linear one: write layers: all"):
        Training.begin(found, images, seed=0, device=CPU)


def test_the_key_is_that_of_the_bytes(tmp_path: Path) -> None:
    one, other, different = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    for file, seed in ((one, 1), (other, 1), (different, 2)):
        torch.save(network(seed).state_dict(), file)
    keys = [WeightsFile(path=str(file)).pinned().key for file in (one, other, different)]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(ValueError, match="has no key before it is pinned"):
        _ = WeightsFile(path=str(one)).key
    pinned = WeightsFile(path=str(one)).pinned()
    torch.save(network(5).state_dict(), one)
    with pytest.raises(InputError, match=r"a.pt have the digest .*, but the spec expects"):
        pinned.weights(None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no weights"),
        (b"no tensors", "holds no weights"),
        (pickle.dumps({"a": Path("x")}), "holds no weights|could run code"),
        ({"w": 1.0}, "holds no weights: it should be torch.save"),
        ({}, "holds no weights"),
        ([torch.ones(2)], "holds no weights"),
        (None, "cannot be read: No such file"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(InputError, match=f"start: .*weights.pt.* ?{message}"):
        WeightsFile(path=str(file)).weights(None, None)  # type: ignore[arg-type]


def test_weights_of_another_network_are_refused(images: Images) -> None:
    model = network(0)
    wide = TrainSpec.parse({"architecture": {"kind": "resnet18", "width": 5}}, "test")
    weights = wide.network(num_classes=4, shape=(3, 32, 32), seed=0).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        InputError, match=r"of another network: net\..*not .* and \d+ more; write the architecture"
    ):
        begin_from(weights, model, head=head_of(model, images), source="start")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    broken = {
        name: value * float("nan") if value.is_floating_point() else value for name, value in before.items()
    }
    with pytest.raises(InputError, match="some of its weights are not finite"):
        begin_from(broken, model, head=None, source="start")


def test_probes_see_the_network_as_it_started(images: Images, tmp_path: Path) -> None:
    """The distance to the initial weights is that to the file's."""
    file, model = tmp_path / "weights.pt", network(7)
    torch.save(model.state_dict(), file)
    settings = {**RESNET, "optimizer": {"kind": "sgd", "lr": 1e-12}}
    trial = Trial.parse({"train": {**settings, "start": {"kind": "weights", "path": str(file)}}}, "test")
    _, record = trial.run(images, images, device=CPU, probe_runs=[ProbeRun("distance", Distance())])
    plain = Trial.parse({"train": settings}, "test")
    _, other = plain.run(images, images, device=CPU, probe_runs=[ProbeRun("distance", Distance())])
    for found in (record, other):
        assert max(abs(value) for value in found["findings"]["distance"]["metrics"].values()) < 1e-3


def test_only_a_sweep_knows_other_trials(images: Images) -> None:
    found = TrainSpec.parse({**RESNET, "start": {"kind": "trial", "of": "0" * 16}}, "test")
    with pytest.raises(InputError, match="only a sweep knows the weights of other trials"):
        fit(found, images, images, seed=0, device=CPU)


# -- timm


def test_timms_weights_are_those_of_its_own_networks() -> None:
    with pytest.raises(
        InputError, match=r"belong to the architecture {kind: timm, name: resnet18}: write that"
    ):
        TrainSpec.parse({"start": {"kind": "timm", "name": "resnet18.a1_in1k"}}, "test")
    with pytest.raises(InputError, match=r"belong to the architecture {kind: timm, name: resnet18}"):
        TrainSpec.parse(
            {
                "architecture": {"kind": "timm", "name": "resnet34"},
                "start": {"kind": "timm", "name": "resnet18.a1_in1k"},
            },
            "test",
        )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> nn.Module:
    """A network of timm whose weights are in Hugging Face's cache, as a download leaves them."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(5)
    net = timm.create_model("test_resnet", num_classes=1000)
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(net.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return net


TIMM: dict[str, Any] = {
    **RESNET,
    "architecture": {"kind": "timm", "name": "test_resnet"},
    "start": {"kind": "timm", "name": "test_resnet.r160_in1k", "layers": "last"},
}


def test_pretrained_weights_of_timm(hub: nn.Module, images: Images) -> None:
    found = fit(TrainSpec.parse(TIMM, "test"), images, images, seed=0, device=CPU).model
    own, theirs = found.state_dict(), hub.state_dict()
    kept = {name for name, value in theirs.items() if torch.equal(own[f"net.{name}"], value)}
    assert theirs.keys() - kept == {"fc.weight", "fc.bias"}
    again = fit(TrainSpec.parse(TIMM, "test"), images, images, seed=0, device=CPU).model.state_dict()
    assert all(torch.equal(own[name], again[name]) for name in own)
    drawn = TrainSpec.parse(TIMM, "test").network(num_classes=4, shape=(3, 32, 32), seed=1).state_dict()
    first = begun(TrainSpec.parse(TIMM, "test"), images)
    assert torch.equal(first["net.fc.weight"], drawn["net.fc.weight"])


def test_images_are_normalised_as_they_expect(hub: nn.Module, images: Images) -> None:
    timm = pytest.importorskip("timm")
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    model = TrainSpec.parse(TIMM, "test").network(num_classes=4, shape=(3, 32, 32), seed=0).eval()
    x = images.x[:4].float() / 255
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (config.mean, config.std))
    assert torch.allclose(model(x), model.net((x - mean) / std), atol=1e-5)  # type: ignore[operator]
    assert set(model.state_dict()) == {f"net.{name}" for name in hub.state_dict()}


def test_weights_that_cannot_be_downloaded_say_so(
    images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"weights of timm's 'test_resnet.r160_in1k' could not be had"):
        fit(TrainSpec.parse(TIMM, "test"), images, images, seed=0, device=CPU)


def test_grey_images_are_normalised_by_the_mean_of_the_colours(hub: nn.Module) -> None:
    grey = Images(torch.randint(256, (20, 1, 32, 32), dtype=torch.uint8), torch.arange(20) % 4, 4)
    spec = TrainSpec.parse(TIMM, "test")
    assert len(fit(spec, grey, grey, seed=0, device=CPU).history) == 1
    model = spec.network(num_classes=4, shape=(1, 32, 32), seed=0)
    mean = pytest.importorskip("timm").get_pretrained_cfg("test_resnet.r160_in1k").mean
    assert model.mean.flatten().item() == pytest.approx(sum(mean) / 3)  # type: ignore[union-attr,operator]


def test_training_the_last_layer_takes_a_forward_pass() -> None:
    from trainers.flops import network_flops, trial_work

    trial = Trial.parse(
        {"train": {**RESNET, "epochs": 10, "start": {"kind": "trial", "of": "0" * 16, "layers": "last"}}}, "x"
    )
    whole = Trial.parse({"train": {**RESNET, "epochs": 10}}, "x")
    network_ = network_flops(whole.train.architecture, shape=(3, 32, 32), num_classes=10)
    few, many = (trial_work(one, network_, train=1000, test=10).flops for one in (trial, whole))
    assert few < many / 2
