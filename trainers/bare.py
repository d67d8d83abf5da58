"""What `python -m trainers` and `python -m poisons` share: reading a spec, naming a device, printing JSON
lines, exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from trainers.loop import DivergenceError, OutOfMemoryError
from trainers.printable import printable
from trainers.redaction import redacted
from trainers.spec import InputError
from trainers.stored import VALUE, DamagedError

Options = TypeVar("Options")


def exit_code(run: Callable[[Options], None], options: Options) -> int:
    """0 when `run` is done, 1 when it failed, 2 when the spec, the data or an option is wrong; the reason
    goes to stderr."""
    try:
        run(options)
    except InputError as error:
        print(printable(redacted(str(error))), file=sys.stderr)
        return 2
    except (DivergenceError, OutOfMemoryError, OSError) as error:
        print(printable(redacted(str(error))), file=sys.stderr)
        return 1
    return 0


def read_spec(file: Path) -> Any:
    """The spec as plain data. YAML where pyyaml is installed; JSON, which is YAML too, everywhere."""
    if str(file) == "-":
        return {}
    try:
        value = VALUE.read_file(file)
    except DamagedError:
        return _yaml(file)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in its name
        raise InputError(f"{file} cannot be read: {error}") from None
    if value is None and not file.is_file():
        raise InputError(f"{file} cannot be read: there is no such file")
    return value


def _yaml(file: Path) -> Any:
    try:
        from trainers.yaml_text import plain_numbers, read_yaml
    except ModuleNotFoundError:
        raise InputError(f"{file} is not JSON, and pyyaml is not installed: pip install pyyaml") from None
    return plain_numbers(read_yaml(file, "name one, or - for a spec of defaults")) or {}


def device_named(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def say(row: dict[str, Any]) -> None:
    """One JSON line on stdout."""
    print(json.dumps(row), flush=True)


def threads(text: str) -> int:
    """The value of a `--threads` option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {text!r}")
    return int(text)
