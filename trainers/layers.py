"""The layers that autocast computes in reduced precision, at their real shapes, and whether a device computes
each of them correctly in bfloat16.

Some kernels for reduced precision are wrong at some shapes. oneDNN 3.13 (torch 2.15) leaves parts of the
weight gradient of strided convolutions unwritten if the output is narrow: the result depends on the previous
content of the memory, and may be finite. Other kernels write outside their memory.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainers.stored import JsonFile

TOLERANCE = 0.02  # relative error in the Frobenius norm; correct kernels are at 0.003, wrong ones above 0.05
NOTHING = (
    0.01  # gradients below this share of the layer's largest are rounding errors: of a softmax over one value
)
PIECE = 64  # rows compared at a time
PRODUCTS = {"multi_head_attention_forward": 5}  # chained products in one call
LOWERED = frozenset(  # names of the functions whose arithmetic autocast lowers (torch: autocast_mode.h)
    [
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum"),
        *("addmm", "addbmm", "baddbmm", "scaled_dot_product_attention", "multi_head_attention_forward"),
    ]
)
META = torch.device("meta")
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
SECONDS = 1800  # time limit of a child process
Gradients = Literal["all", "inputs", "none"]  # of a training, an attack, an evaluation
CHECKED_HEAP = {  # of a child on glibc: reveals reads of unwritten memory and writes past a block
    "MALLOC_PERTURB_": "128",  # new memory holds the bytes 7f, which are 3.4e38 in both precisions
    "MALLOC_CHECK_": "3",  # freeing an overrun block aborts the process
    "LD_PRELOAD": "libc_malloc_debug.so.0",  # required for these checks since glibc 2.34
}


@dataclass(frozen=True)
class TensorShape:
    """Shape, strides and dtype of a tensor. `parameter`: whether it is a parameter of the network."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    parameter: bool

    @classmethod
    def of(cls, x: Tensor, layout: torch.memory_format | None = None) -> TensorShape:
        """The TensorShape of `x`, or of `x` in another memory `layout`."""
        like = x if layout is None else torch.empty(x.shape, device=META).to(memory_format=layout)
        return cls(tuple(x.shape), like.stride(), x.dtype, isinstance(x, nn.Parameter))

    def __str__(self) -> str:
        dense = torch.empty(self.size, device=META)
        plain = self.stride == dense.stride()
        last = dense.dim() == 4 and self.stride == dense.to(memory_format=torch.channels_last).stride()
        layout = "" if plain else " channels_last" if last else f" strides {self.stride}"
        kind = " weight" if self.parameter else ""
        kind += "" if self.dtype == torch.float32 else f" {self.dtype}".replace("torch.", "")
        return "x".join(map(str, self.size)) + layout + kind

    def draw(self, gen: torch.Generator) -> Tensor:
        """A random tensor of this shape with values exact in bfloat16; weights are scaled by their fan-in."""
        if not self.dtype.is_floating_point:
            return torch.ones(self.size, dtype=self.dtype, device=gen.device)
        x = torch.randn(self.size, generator=gen, device=gen.device)
        if self.parameter and len(self.size) > 1:
            x /= math.sqrt(math.prod(self.size[1:]))
        x = x.bfloat16().float()
        if 0 in self.stride:  # an expanded tensor
            return x
        return torch.empty_strided(self.size, self.stride, device=gen.device).copy_(x)


@dataclass(frozen=True)
class Layer:
    """A call of a torch function, with shapes in place of tensors, and the gradients that are needed."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gradients: Gradients

    def __str__(self) -> str:
        """`conv2d(128x256x2x1 channels_last, 512x256x3x3, None, (2, 2), (1, 1), (1, 1), 1)`: equal for layers
        that differ in their gradients only."""
        given = [str(_map(a, str)) if isinstance(a, list) else str(a) for a in self.args]
        given += [f"{name}={value}" for name, value in self.kwargs.items()]
        return f"{self.function}({', '.join(given)})"

    def accepts(self, verdict: Verdict) -> bool:
        """Whether the error is within what bfloat16 rounding explains."""
        return verdict.error <= TOLERANCE * PRODUCTS.get(self.function, 1)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Its output for these arguments."""
        out = getattr(F, self.function, None) or getattr(torch, self.function)
        found = out(*args, **kwargs)
        return found[0] if isinstance(found, tuple) else found


@dataclass(frozen=True)
class Verdict:
    """How far bfloat16 is from float32 for one layer: the largest relative error, and the tensor that has it.
    `error` is infinite if values are not finite or cannot be computed."""

    error: float
    part: str  # output, gradient of weight, ...


class _Recorder(TorchFunctionMode):
    """Records the calls that autocast computes in reduced precision."""

    def __init__(self, gradients: Gradients) -> None:
        super().__init__()
        self.gradients, self.layers = gradients, dict[str, Layer]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in LOWERED:
            given = args[::-1] if name == "__rmatmul__" else args
            name = "matmul" if name.endswith("matmul__") else name
            layer = Layer(name, _as_trained(name, given), _as_trained(name, kwargs or {}), self.gradients)
            self.layers.setdefault(str(layer), layer)
        return func(*args, **(kwargs or {}))


def layers_of(network: nn.Module, x: Tensor, gradients: Gradients) -> list[Layer]:
    """The distinct layers that a batch like `x` passes through in `network`, which is in eval mode. Free if
    both are on the meta device."""
    recorder = _Recorder(gradients)
    with recorder:
        network(x)
    return list(recorder.layers.values())


def examine(layer: Layer, device: torch.device) -> Verdict:
    """Run a layer on random input in float32 and in bfloat16, and compare its output and gradients. A wrong
    kernel may crash the process: see `examine_apart`."""
    drawn = _drawn((layer.args, layer.kwargs), torch.Generator(device).manual_seed(0))
    # in contiguous layout: some float32 kernels for channels_last write past their memory (torch 2.15)
    plain = _map(drawn, _plain)
    exact = _computed(layer, plain, device, lowered=False)
    try:
        lowered = _computed(layer, drawn, device, lowered=True)
    except RuntimeError as error:  # not implemented, or no kernel for it
        if "memory" in str(error).lower():
            raise
        why = next(iter(str(error).splitlines()), type(error).__name__)
        return Verdict(math.inf, f"output, which cannot be computed ({why}),")
    gradients = len(exact) - 1
    floors = [0.0, *[NOTHING * max(map(_norm, exact[1:]), default=0.0)] * gradients]
    errors = map(relative_error, lowered, exact, floors)
    return max(map(Verdict, errors, _parts(gradients)), key=lambda verdict: verdict.error)


def examine_apart(layers: Sequence[Layer]) -> list[Verdict]:
    """The verdict on each layer on the CPU, with torch's current number of threads. The layers run in a child
    process, since a wrong kernel may corrupt memory; a layer that crashes the process is wrong. MemoryError
    if there is too little memory."""
    found, code, errors = _child(layers)
    if code == 0:
        return found
    what = f"checking the precision of {len(layers)} layers, {layers[0]} among them, ended with code {code}"
    if -code == signal.SIGKILL or "bad_alloc" in errors:
        raise MemoryError(f"{what}: there was too little memory")
    if -code not in CRASHES:
        raise (RuntimeError if code > 0 else InterruptedError)(f"{what}: {errors[-500:]}")
    if len(layers) > 1:  # the crash may come later than the corruption: find the layer by bisection
        half = len(layers) // 2
        return examine_apart(layers[:half]) + examine_apart(layers[half:])
    return [Verdict(math.inf, f"process, which crashes with {signal.Signals(-code).name},")]


VERDICT_LINE = JsonFile[list[Any]](
    Annotated[list[Any], Field(min_length=2, max_length=2)]
)  # the error, or None if infinite, and the part


def _child(layers: Sequence[Layer]) -> tuple[list[Verdict], int, str]:
    """The verdicts of a child process, its exit code and its stderr."""
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= CHECKED_HEAP if platform.libc_ver()[0] == "glibc" else {}
    asked = pickle.dumps((torch.get_num_threads(), tuple(layers)))
    try:
        run = subprocess.run(command, input=asked, capture_output=True, env=environment, timeout=SECONDS)
    except subprocess.TimeoutExpired:  # a corrupted heap may deadlock
        return [], -signal.SIGABRT, f"it did not finish in {SECONDS} s"
    lines = [VERDICT_LINE.read(line) for line in run.stdout.splitlines() if line.endswith(b"]")]
    found = [Verdict(math.inf if error is None else error, part) for error, part in lines]
    return found, run.returncode, run.stderr.decode(errors="replace")


def serve() -> None:
    """The child process of `examine_apart`: reads layers from stdin, writes a line of JSON per verdict to
    stdout."""
    threads, layers = pickle.loads(sys.stdin.buffer.read())
    torch.set_num_threads(threads)
    for layer in layers:
        verdict = examine(layer, torch.device("cpu"))
        error = verdict.error if math.isfinite(verdict.error) else None
        print(json.dumps([error, verdict.part]), flush=True)


def relative_error(x: Tensor, reference: Tensor, floor: float = 0.0) -> float:
    """The Frobenius norm of the difference over that of `reference`, or over `floor` if larger; infinite if
    it is not finite."""
    pairs = zip(x.split(PIECE), reference.split(PIECE), strict=True) if x.dim() else [(x, reference)]
    error = math.hypot(*(_norm(part.float() - exact) for part, exact in pairs))
    error /= max(_norm(reference), floor) or 1.0
    return error if math.isfinite(error) else math.inf


def _norm(x: Tensor) -> float:
    return torch.linalg.vector_norm(x, dtype=torch.float64).item()


def _computed(layer: Layer, drawn: tuple[Any, Any], device: torch.device, *, lowered: bool) -> list[Tensor]:
    """The output and the layer's gradients, for a fixed gradient of the output."""
    leaves = [x.requires_grad_() for x in _differentiated(layer, drawn)]
    if lowered:
        _fill_free_memory(leaves)
    with (
        torch.set_grad_enabled(bool(leaves)),
        torch.autocast(device.type, torch.bfloat16, enabled=lowered),
    ):
        out = layer(*drawn)
    if not leaves:
        return [out]
    gen = torch.Generator(device).manual_seed(1)
    grad = torch.randn(out.shape, generator=gen, device=device).bfloat16().to(out.dtype)
    if lowered:
        _fill_free_memory([*leaves, out])
    grads = torch.autograd.grad(out, leaves, grad, allow_unused=True)
    pairs = zip(grads, leaves, strict=True)
    return [out.detach(), *(torch.zeros_like(x) if g is None else g for g, x in pairs)]


def _fill_free_memory(like: Iterable[Tensor]) -> None:
    """Fill GPU memory that the allocator will probably hand out for tensors of these sizes with NaN, so that
    reads of unwritten memory become visible. On a CPU the C library does it: CHECKED_HEAP."""
    sizes = [(x.numel() * width // 4 + 1, x.device) for x in like for width in (2, 4) if x.is_cuda]
    blocks = [torch.full((size,), math.nan, device=device) for size, device in sizes]
    del blocks


def _plain(leaf: Any) -> Any:
    """A contiguous copy of a tensor; anything else unchanged."""
    return leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf


def _parts(gradients: int) -> Iterator[str]:
    yield "output"
    names = ("input", "weight", "bias") if gradients <= 3 else ()
    for i in range(gradients):
        yield f"gradient of {names[i] if i < len(names) else f'tensor {i}'}"


def _differentiated(layer: Layer, drawn: Any) -> Iterator[Tensor]:
    """The tensors whose gradients the layer needs."""
    shapes = (leaf for leaf in _leaves((layer.args, layer.kwargs)) if isinstance(leaf, TensorShape))
    for shape, x in zip(shapes, _tensors(drawn), strict=True):
        wanted = layer.gradients == "all" or (layer.gradients == "inputs" and not shape.parameter)
        if x.is_floating_point() and wanted:
            yield x


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in _leaves(value) if isinstance(leaf, Tensor))


def _leaves(value: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and mappings."""
    if isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and mappings with `change` applied to every leaf."""
    if isinstance(value, dict):
        return {name: _map(item, change) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = (_map(item, change) for item in value)
        return list(items) if isinstance(value, list) else tuple(items)
    return change(value)


def _as_trained(function: str, value: Any) -> Any:
    """Shapes in place of tensors. Arguments of a 2d convolution are channels_last, as in a training: the meta
    device loses that layout after a batch normalisation."""

    def shape(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        image = function == "conv2d" and leaf.dim() == 4
        return TensorShape.of(leaf, torch.channels_last if image else None)

    return _map(value, shape)


def _drawn(value: Any, gen: torch.Generator) -> Any:
    return _map(value, lambda leaf: leaf.draw(gen) if isinstance(leaf, TensorShape) else leaf)
