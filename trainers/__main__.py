"""`python -m trainers SPEC.yaml --data DIR`: train one spec on a bare machine, and print JSON lines.

SPEC.yaml (or .json where pyyaml is not installed) holds `train`, `evaluation` and `seed`, as `base` does in a
sweep file. DIR holds `train.pt` and `test.pt`, written by `Images.save`. Each epoch prints one line, and the
last line is the record, with the findings of `--probe` under `findings`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import torch

from trainers.bare import device_named, exit_code, read_spec, say, threads
from trainers.checkpoint import Checkpoint, write_tensors
from trainers.images import Images
from trainers.loop import Trained
from trainers.probe import Probe, ProbeRun
from trainers.spec import InputError
from trainers.stored import OBJECT, DamagedError
from trainers.trial import Trial


def main(arguments: list[str] | None = None) -> int:
    """0 when the training is done, 1 when it failed, 2 when the spec, the data or an option is wrong."""
    return exit_code(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    trial = Trial.parse(read_spec(options.spec), str(options.spec))
    for name in ("checkpoint", "weights"):
        if (file := getattr(options, name)) is not None and not os.access(file.parent, os.W_OK):
            raise InputError(f"--{name} {file}: the folder {file.parent} is missing or not writable")
    probe_runs = [_probe_run(text) for text in options.probe]
    files = [options.data / f"{split}.pt" for split in ("train", "test")]
    train, test = (Images.load(file).contiguous() for file in files)
    if options.threads:
        torch.set_num_threads(options.threads)
    checkpoint = None
    if options.checkpoint:
        checkpoint = Checkpoint(options.checkpoint, every=options.every, data=_digest(files[0]))
    device = device_named(options.device)
    trained, record = trial.train_and_evaluate(
        train, test, device=device, report=say, checkpoint=checkpoint, probe_runs=probe_runs
    )
    if options.weights:
        write_tensors(options.weights, trained.model.state_dict())
    found, failed = _found(trial, trained, test, probe_runs, device)
    say(record | ({"findings": found} if probe_runs else {}))
    if failed is not None:
        raise failed
    if checkpoint is not None:
        checkpoint.remove()


def _found(
    trial: Trial,
    trained: Trained,
    test: Images,
    probe_runs: list[ProbeRun],
    device: torch.device,
) -> tuple[dict[str, Any], Exception | None]:
    """The findings, and the first error if a probe failed. A failed probe costs neither the record nor the
    other findings."""
    found: dict[str, Any] = {}
    failed = None
    for run in probe_runs:
        try:
            found |= trial.run_probes(
                trained.model,
                trained.images,
                test,
                [run],
                device=device,
                history=trained.history,
                watched=trained.watched,
            )
        except Exception as error:  # noqa: BLE001  (raised after the record is printed)
            failed = failed or error
    return found, failed


def _options(arguments: list[str] | None) -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser("python -m trainers", description=about, epilog=more)
    parser.add_argument(
        "spec", type=Path, metavar="SPEC.yaml", help="train, evaluation, seed; `-` for all defaults"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds train.pt and test.pt")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=threads, metavar="N", help="processors to use")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="resume from, and write to, this file"
    )
    parser.add_argument(
        "--every", type=float, default=60, metavar="S", help="seconds between checkpoints (default 60)"
    )
    parser.add_argument(
        "--probe",
        "--look",  # its name in earlier versions
        dest="probe",
        action="append",
        default=[],
        metavar="PROBE",
        help="a probe that needs no other images, such as distance: its kind, or JSON with its settings; "
        "may be repeated",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="keep the trained weights here")
    return parser.parse_args(arguments)


def _probe_run(text: str) -> ProbeRun:
    """The run that `distance` or `{"kind": "distance", "name": "far", "threshold": 0.8}` describes."""
    where = f"--probe {text}"
    try:
        settings = OBJECT.read(text.encode()) if text.startswith("{") else {"kind": text}
    except DamagedError as error:
        raise InputError(f"{where}: {error}") from None
    probe = Probe.parse({name: value for name, value in settings.items() if name != "name"}, where)
    return ProbeRun(str(settings.get("name", probe.kind)), probe)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
