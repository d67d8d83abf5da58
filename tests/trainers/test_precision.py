"""Reduced precision is used only where the device computes every layer of the network correctly in it."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisons.methods.em import Em
from tests.conftest import CPU
from trainers import Images, InputError, TrainSpec, layers, precision
from trainers.families import Architecture
from trainers.layers import Layer, TensorShape, Verdict, examine, examine_apart, layers_of, relative_error
from trainers.meta import on_meta
from trainers.precision import Arithmetic, BatchSizes, batch_sizes, failures, resolve
from trainers.recipe import native_bfloat16
from trainers.trial import Trial

NATIVE = native_bfloat16(CPU)
SHAPE = (3, 32, 32)
NARROW = {"kind": "resnet18", "width": 8}  # on images of 64x2 its stages have outputs one pixel wide


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without verdicts."""
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "_known", {})
    return tmp_path / "cache" / "precision"


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def convolution(
    size: tuple[int, int], channels: tuple[int, int], *, stride: int = 2, batch: int = 64
) -> Layer:
    x = torch.empty(batch, channels[0], *size).to(memory_format=torch.channels_last)
    w = nn.Parameter(torch.empty(channels[1], channels[0], 3, 3))
    args = (TensorShape.of(x), TensorShape.of(w), None, (stride, stride), (1, 1), (1, 1), 1)
    return Layer("conv2d", args, {}, "all")


def naive_error(layer: Layer) -> float:
    """The same comparison in plain torch, in float64, once: its verdict is random if memory is left unwritten."""
    x, w = (arg.draw(torch.Generator().manual_seed(1)) for arg in layer.args[:2])
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        a, b = (t.to(dtype).requires_grad_() for t in (x, w))
        y = F.conv2d(a, b, None, *layer.args[3:])
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16().to(dtype)
        found.append([y.detach(), *torch.autograd.grad(y, (a, b), grad)])
    errors = [((b.double() - a).norm() / a.norm()).item() for a, b in zip(*found, strict=True)]
    return max(e if math.isfinite(e) else math.inf for e in errors)


@pytest.mark.skipif(not NATIVE, reason="this processor has no bfloat16 of its own")
def test_square_convolutions_are_clearly_correct(one_thread: None) -> None:
    some = [convolution((n, n), (32, 64), stride=s) for n in (4, 8, 16) for s in (1, 2)]
    verdicts = examine_apart(some)
    assert max(v.error for v in verdicts) < 0.005
    assert max(naive_error(layer) for layer in some) < 0.005


def test_a_layer_that_leaves_memory_unwritten_is_always_found(one_thread: None) -> None:
    """Where this machine has the fault at all: a plain comparison finds it at least once in ten."""
    narrow = [convolution(size, (32, 64)) for size in ((8, 1), (4, 1), (16, 2), (8, 2))]
    wrong = [layer for layer in narrow if any(not naive_error(layer) < 0.02 for _ in range(10))]
    for _ in range(3):
        verdicts = dict(zip(map(str, narrow), examine_apart(narrow), strict=True))
        assert not any(layer.accepts(verdicts[str(layer)]) for layer in wrong)


class Broken(nn.Module):
    """What autocast lowers, in every way that a network may write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens)[0] + F.scaled_dot_product_attention(*[tokens] * 3)
        tokens = (
            tokens
            + tokens @ torch.eye(4, device=x.device)
            + torch.einsum("bnc,dc->bnd", tokens, self.linear.weight)
        )
        return self.linear(tokens.mean(1))


def test_every_call_that_autocast_lowers_is_recorded_once() -> None:
    net = Broken().to("meta").eval()
    found = layers_of(net, torch.empty(2, 3, 4, 4, device="meta"), "all")
    names = [
        "conv2d",
        "multi_head_attention_forward",
        "scaled_dot_product_attention",
        "matmul",
        "einsum",
        "linear",
    ]
    assert [layer.function for layer in found] == names
    assert len(layers_of(nn.Sequential(*[nn.Linear(4, 4)] * 3), torch.empty(2, 4), "none")) == 1
    assert all(layer.accepts(v) for layer, v in zip(found, examine_apart(found), strict=True))


def without_layout(texts: list[str]) -> list[str]:
    """Layers that differ only in memory layout, and not even in that for images of one pixel."""
    return list(dict.fromkeys(text.replace(" channels_last", "") for text in texts))


@pytest.mark.parametrize("kind", sorted(Architecture.registry))
def test_recorded_layers_match_those_of_a_training(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of a network without numbers, beside those that a real batch has on its way."""
    member = Architecture.registry[kind]
    spec = member.model_validate(member.smoke)
    meta = on_meta(spec, SHAPE, 5).eval()
    x = torch.rand(4, *SHAPE).contiguous(memory_format=torch.channels_last)
    net = spec.network(num_classes=5, shape=SHAPE, seed=0).to(memory_format=torch.channels_last).eval()
    predicted = [str(layer) for layer in layers_of(meta, torch.empty_like(x, device="meta"), "all")]
    real = [str(layer) for layer in layers_of(net, x, "all")]
    assert without_layout(predicted) == without_layout(real)
    assert len(predicted) >= 2


@pytest.fixture
def wrong_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """A machine whose linear layers are wrong: the kernel of a function is replaced, here and in children."""
    asked: list[str] = []

    def install(function: str) -> list[str]:
        def examined(some: list[Layer], device: torch.device) -> Iterator[Verdict]:
            for layer in some:
                asked.append(str(layer))
                bad = layer.function == function
                yield Verdict(1.4 if bad else 0.003, "gradient of weight" if bad else "output")

        monkeypatch.setattr(precision, "_examined", examined)
        monkeypatch.setattr("trainers.recipe.native_bfloat16", lambda device: True)
        return asked

    return install


SIZES = BatchSizes(training=frozenset({8}), evaluation=frozenset({9}))


def settle(text: str, sizes: BatchSizes = SIZES) -> Arithmetic:
    spec = TrainSpec.parse({"architecture": "lenet5", "precision": text}, "test")
    return resolve(spec, shape=SHAPE, num_classes=4, sizes=sizes, device=CPU)


def test_auto_falls_back_and_says_why_and_bfloat16_is_refused(wrong_at: Callable[[str], list[str]]) -> None:
    wrong_at("linear")
    found = settle("auto")
    assert found.precision == "float32"
    assert found.fallback is not None
    for part in (
        "float32 in place of bfloat16",
        "lenet5",
        "linear(8x",
        "gradient of weight is off by 1.4 times",
        torch.__version__,
    ):
        assert part in found.fallback
    with pytest.raises(
        InputError, match=r"train.precision: bfloat16 is computed wrongly here .* Write float32, or auto"
    ):
        settle("bfloat16")
    assert settle("float32") == Arithmetic("float32")


def test_correct_layers_are_checked_once(
    wrong_at: Callable[[str], list[str]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = wrong_at("nothing")
    assert settle("auto") == settle("bfloat16") == Arithmetic("bfloat16")
    first = len(asked)
    assert first == len(set(asked)) > 2
    monkeypatch.setattr(precision, "_known", {})  # another process of this machine
    settle("auto")
    assert len(asked) == first
    settle("auto", BatchSizes(training=frozenset({8, 3})))
    assert len(asked) > first, "another batch size is another shape"
    files = list(cache.rglob("*.json"))
    assert len(files) == len(asked)
    record = json.loads(files[0].read_text())
    assert record["platform"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"layer": 3}', b'{"layer": "x", "error": "y", "part": "z"}']
)
def test_a_damaged_verdict_is_recomputed(
    wrong_at: Callable[[str], list[str]], cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    asked = wrong_at("linear")
    settle("auto")
    first = len(asked)
    for file in cache.rglob("*.json"):
        file.write_bytes(damage)
    monkeypatch.setattr(precision, "_known", {})
    assert settle("auto").precision == "float32"
    assert len(asked) == 2 * first


def test_verdicts_need_no_writable_cache(
    wrong_at: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "file"))
    wrong_at("linear")
    assert settle("auto").precision == "float32"


def test_only_the_layer_that_crashes_its_process_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Real child processes, one of which aborts, as a kernel does that overwrites foreign memory."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nfrom torch.nn import functional as F\nF.abort = lambda *_: os.abort()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    good = Layer("linear", tuple(TensorShape.of(torch.empty(4, 4)) for _ in range(2)), {}, "all")
    verdicts = examine_apart([good, Layer("abort", good.args, {}, "all"), good])
    assert [good.accepts(v) for v in verdicts] == [True, False, True]
    assert "SIGABRT" in verdicts[1].part
    with pytest.raises(RuntimeError, match="ended with code 1"):
        examine_apart([Layer("no_such_function", good.args, {}, "all")])


def test_batch_sizes_match_a_loop_over_the_images() -> None:
    for images in range(30):
        for size in range(1, 12):
            assert batch_sizes(images, size) == {len(c) for c in torch.arange(images).split(size) if len(c)}


def test_relative_errors_are_those_of_float64_and_never_nan() -> None:
    x, y = torch.randn(50, 7), torch.randn(50, 7)
    assert relative_error(x, y) == pytest.approx(
        ((x.double() - y.double()).norm() / y.double().norm()).item()
    )
    assert relative_error(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0
    assert relative_error(torch.ones(1), torch.zeros(1)) == 1.0


@pytest.mark.skipif(not NATIVE, reason="this processor has no bfloat16 of its own")
def test_wrong_layers_mean_a_float32_training_and_a_note_in_the_record(
    one_thread: None,
) -> None:
    """Real images of a shape at which oneDNN is wrong (on processors where it is): equal to float32, bit for bit."""
    gen = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (48, 3, 64, 2), generator=gen, dtype=torch.uint8), torch.arange(48) % 4, 4
    )
    settings: dict[str, Any] = {"architecture": NARROW, "epochs": 2, "batch_size": 16, "augmentations": []}
    sizes = BatchSizes(training=frozenset({16}), evaluation=frozenset({48}))
    spec = TrainSpec.parse(settings, "test")
    if not failures(spec.architecture, shape=(3, 64, 2), num_classes=4, sizes=sizes, device=CPU):
        pytest.skip("this machine computes these layers correctly")
    auto, exact = (
        Trial.parse({"train": settings | {"precision": p}}, "test").run(images, images, device=CPU)[1]
        for p in ("auto", "float32")
    )
    assert auto["history"] == exact["history"]
    assert (auto["precision"], exact["precision"]) == ("float32", "float32")
    assert exact["precision_fallback"] is None
    assert "conv2d" in auto["precision_fallback"]
    assert auto["precision_fallback"] in auto["warnings"]
    with pytest.raises(InputError, match=r"train.precision: bfloat16 is computed wrongly"):
        Trial.parse({"train": settings | {"precision": "bfloat16"}}, "test").run(images, images, device=CPU)
    em = Em.parse(
        {"generator": NARROW, "batch_size": 16, "max_rounds": 1, "train_steps": 1, "steps": 1}, "test"
    )
    facts = em.craft(images, seed=0).facts()
    assert facts["precision"] == "float32"
    assert "conv2d" in facts["precision_fallback"]
    with pytest.raises(InputError, match="precision of the poison em: bfloat16 is computed wrongly"):
        em.model_copy(update={"precision": "bfloat16"}).craft(images, seed=0)


def test_the_check_changes_no_random_state_and_no_thread_count() -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    failures(
        Architecture.model_validate("lenet5"),
        shape=SHAPE,
        num_classes=4,
        sizes=BatchSizes(training=frozenset({4})),
        device=CPU,
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert layers.CHECKED_HEAP.keys().isdisjoint(os.environ)


def test_gradients_that_are_only_rounding_errors_are_not_compared() -> None:
    """The softmax over a single token is 1 for any query and key."""
    token = TensorShape.of(torch.empty(8, 2, 1, 16))
    layer = Layer("scaled_dot_product_attention", (token,) * 3, {}, "all")
    assert layer.accepts(examine(layer, CPU))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_check_gives_no_verdict(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nfrom torch.nn import functional as F\n"
        f"F.interrupted = lambda *_: os.kill(os.getpid(), {number})\n"
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InterruptedError, match="ended with code"):
        examine_apart([Layer("interrupted", (TensorShape.of(torch.empty(4)),), {}, "none")])
    assert not list(cache.rglob("*.json"))


def test_float32_is_used_if_there_is_too_little_memory_to_check(
    monkeypatch: pytest.MonkeyPatch, wrong_at: Callable[[str], list[str]]
) -> None:
    wrong_at("nothing")

    def full(layers: list[Layer], device: torch.device) -> Iterator[Verdict]:
        raise MemoryError("there was too little memory")

    monkeypatch.setattr(precision, "_examined", full)
    found = settle("auto")
    assert found.precision == "float32"
    assert "could not be checked: there was too little memory" in str(found.fallback)
    with pytest.raises(MemoryError):
        settle("bfloat16")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is checked on glibc alone")
def test_a_kernel_that_writes_past_its_memory_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A function that computes correctly, and writes eight bytes behind its output."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes\nfrom torch.nn import functional as F\n"
        "def overruns(x):\n    y = x * 2\n    ctypes.memset(y.data_ptr() + y.nbytes, 1, 8)\n    return y\n"
        "F.overruns = overruns\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    x = TensorShape.of(torch.empty(30, 10))
    layer = Layer("overruns", (x,), {}, "none")
    assert not layer.accepts(examine_apart([layer])[0])


def test_a_layer_without_a_bfloat16_kernel_is_no_crash() -> None:
    def refuses(*_: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError
        return torch.ones(1)

    F.refuses = refuses  # type: ignore[attr-defined]
    try:
        verdict = examine(Layer("refuses", (), {}, "none"), CPU)
    finally:
        del F.refuses  # type: ignore[attr-defined]
    assert verdict.error == math.inf
