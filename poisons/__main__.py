"""`python -m poisons SPEC.yaml --store DIR`: make one data set on a bare machine, and print JSON lines.

SPEC.yaml (or .json where pyyaml is not installed) holds `source`, `poison`, `ratio`, `limit` and `seed`, as
`data` does in a sweep file. Progress is printed as JSON lines, and the last line is the record. A data set
already in the store is not built again; a killed build resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from poisons.base import CraftContext
from poisons.data_spec import DataSpec
from poisons.durable import StoreError
from poisons.store.store import Store
from trainers.bare import device_named, exit_code, read_spec, say, threads
from trainers.spec import InputError


def main(arguments: list[str] | None = None) -> int:
    """0 when the data set exists, 1 when building it failed, 2 when the spec or an option is wrong."""
    return exit_code(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    spec = DataSpec.parse(read_spec(options.spec), str(options.spec)).pinned()
    if options.save is not None and not options.save.parent.is_dir():
        raise InputError(f"--save {options.save}: there is no folder {options.save.parent}")
    store = _opened(options.store)
    if options.threads:
        torch.set_num_threads(options.threads)
    images = store.ensure(spec, CraftContext(device=device_named(options.device), report=say))
    if options.save is not None:
        images.save(options.save)
    say({"path": str(store.path(spec)), **(store.record(spec) or {})})


def _opened(folder: Path) -> Store:
    try:
        return Store(folder)
    except StoreError as error:
        raise InputError(str(error)) from None


def _options(arguments: list[str] | None) -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser("python -m poisons", description=about, epilog=more)
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help="`-` for all defaults")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="where data sets are kept")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=threads, metavar="N", help="processors to use")
    parser.add_argument(
        "--save", type=Path, metavar="FILE.pt", help="write the images for `python -m trainers` too"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
