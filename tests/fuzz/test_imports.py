"""`opsctl import` with damaged or hostile files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.bench import Bench
from tests.fuzz.hostile import changed_bytes, examples

CLEAN, ROWS = "{source: digits, limit: 60}", 1797  # images, training and test
NOISE = np.random.default_rng(0).uniform(-0.03, 0.03, (10, 3, 32, 32)).astype("float32")


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


FILES = {
    "noise.npy": saved(lambda file: np.save(file, NOISE)),
    "noise.npz": saved(lambda file: np.savez_compressed(file, NOISE)),
    "noise.pt": saved(lambda file: torch.save(torch.from_numpy(NOISE), file)),
}
PICTURE = saved(lambda file: Image.fromarray(np.zeros((32, 32, 3), dtype="uint8")).save(file, "PNG"))


def placed(folder: Path, name: str) -> Path:
    """An intact file that a user would import."""
    path = folder / name
    if name in FILES:
        path.write_bytes(FILES[name])
    else:
        path.mkdir(exist_ok=True)
        for row in range(ROWS):
            (path / f"{row:05d}.png").write_bytes(PICTURE)
    return path


def test_import_survives_damaged_files(bench: Bench) -> None:
    names = [*FILES, "pictures"]
    bench.inbox.mkdir()
    for name in names:
        bench.fresh()
        assert bench.run(["import", str(placed(bench.inbox, name)), "--clean", CLEAN]).code == 0

    @given(st.data())
    @examples(30)
    def check(data: st.DataObject) -> None:
        bench.fresh()
        path = placed(bench.inbox, data.draw(st.sampled_from(names)))
        file = path / "00007.png" if path.is_dir() else path
        file.write_bytes(data.draw(changed_bytes(file.read_bytes())))
        bench.run(["import", str(path), "--clean", CLEAN])

    check()
