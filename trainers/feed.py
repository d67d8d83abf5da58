"""How batches reach the device: from its own memory if the images fit, else streamed from the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from trainers.images import Images, batches, to_float

SHARE = 0.5  # of a device's free memory that images may use
AHEAD = 2  # batches prefetched


def place(images: Images, device: torch.device) -> Images:
    """The images on `device` if they fit, else where they are."""
    if device.type == "cuda" and images.x.nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
        return images
    return images.to(device)


def feed(
    images: Images, size: int, device: torch.device, order: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Float pixels in [0, 1] and int64 labels on `device`, `size` at a time, in `order` (default: as stored).
    The batches do not depend on where the images are."""
    if images.x.device.type == device.type:
        return batches(images, size, order)
    return stream(images, size, device, order)


def stream(
    images: Images, size: int, device: torch.device, order: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """`feed` for images on the host, such as a memory map. A thread gathers the next batches, into
    page-locked memory for a GPU, while the device computes."""
    rows = torch.arange(len(images)) if order is None else order.cpu()

    def gather(take: Tensor) -> tuple[Tensor, Tensor]:
        x, y = images.x[take], images.y[take]
        return (x.pin_memory(), y.pin_memory()) if device.type == "cuda" else (x, y)

    with ThreadPoolExecutor(1) as pool:
        ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
        for take in rows.split(size):
            ahead.append(pool.submit(gather, take))
            if len(ahead) > AHEAD:
                yield _over(ahead.popleft().result(), device)
        while ahead:
            yield _over(ahead.popleft().result(), device)


def _over(batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = (part.to(device, non_blocking=True) for part in batch)
    return to_float(x), y
