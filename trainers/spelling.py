"""The nearest known spelling of an unknown name, for the end of an error message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence

ALSO_CALLED = {  # our name: what papers, libraries and other sweep tools call it
    "Linf": ("inf", "infinity", "linfty", "linfinity", "max"),
    "L2": ("2", "two", "euclidean"),
    "architecture": ("model", "network", "net", "arch", "backbone"),
    "attacks": ("attack",),
    "augmentations": ("augmentation", "transform", "transforms"),
    "batch_size": ("batch", "bs", "batches", "train_batch_size"),
    "bfloat16": ("bf16", "fp16", "float16", "half", "amp", "mixed"),
    "clip_norm": ("grad_clip", "clip_grad_norm", "gradient_clip_val", "max_norm"),
    "cpus_per_trial": ("cpu", "cpus", "num_cpus"),
    "data": ("dataset", "datasets"),
    "defense": ("defence", "adversarial_training"),
    "epochs": ("epoch", "num_epochs", "n_epochs", "max_epochs"),
    "eps": ("epsilon", "radius"),
    "erm": ("none", "standard", "natural"),
    "float32": ("fp32", "float", "single"),
    "gpus_per_trial": ("gpu", "gpus", "num_gpus", "resources"),
    "grid": ("param", "params", "parameters", "axes", "param_space", "search_space", "space"),
    "lr": ("learning_rate", "base_lr", "max_lr", "init_lr"),
    "max_concurrent": ("concurrency", "parallel", "max_concurrent_trials", "n_jobs"),
    "num_samples": ("samples", "trials", "n_trials", "num_trials", "max_trials"),
    "poison": ("poisons", "perturbation"),
    "precision": ("dtype", "mixed_precision"),
    "question": ("description", "title"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule"),
    "search": ("method", "strategy"),
    "seed": ("seeds", "random_seed", "manual_seed"),
    "source": ("dataset", "images"),
    "steps": ("num_steps", "iterations", "iters", "nb_iter"),
    "weight_decay": ("wd", "decay"),
}


def as_yaml(path: Sequence[str]) -> str:
    """`optimizer: {lr: ...}` for ("optimizer", "lr"); `attacks: [{steps: ...}]` where "0" is in between."""
    first, *rest = path
    if not rest:
        return f"{first}: ..."
    if rest[0] == "0":
        return f"{first}: [{{{as_yaml(rest[1:])}}}]"
    return f"{first}: {{{as_yaml(rest)}}}"


def nearest(
    word: object,
    known: Iterable[str],
    inner: Iterable[Sequence[str]] = (),
    write: Callable[[Sequence[str]], str] = as_yaml,
) -> str:
    """`; did you mean 'ops'? Known: ...` for the end of an error message.

    `inner` are paths to nested names, such as ("optimizer", "lr"), in which "0" stands for the first item of
    a list. Those that end in this word are proposed in order, formatted by `write`.
    """
    names = list(known)
    if not names:
        return "; it has no fields"
    close = [repr(name) for name in names if same(word, name)]
    paths = [path for path in inner if same(word, path[-1])]
    close = close or [f"`{write(path)}`" for path in paths if len(path) <= len(paths[0]) + 1][:3]
    close = close or [repr(name) for name in difflib.get_close_matches(str(word), names, n=2, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return f"{hint} Known: {', '.join(sorted(names))}"


def same(word: object, name: str) -> bool:
    """Whether a word is another spelling of, or another word for, a name."""
    return _letters(word) in {_letters(name), *map(_letters, ALSO_CALLED.get(name, ()))}


def _letters(word: object) -> str:
    return re.sub(r"[\W_]", "", str(word)).lower()
