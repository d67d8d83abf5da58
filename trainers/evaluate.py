"""What a trained network is worth: its accuracy on images it has not seen."""

from __future__ import annotations

import torch
from torch import nn

from trainers.images import Images, batches


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, *, batch_size: int = 500) -> float:
    """The share of `images` (on the model's device) that the model, in eval mode, puts into their class; in
    [0, 1]."""
    before = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=images.x.device)
    for x, labels in batches(images, batch_size):
        right += (model(x.to(memory_format=torch.channels_last)).argmax(1) == labels).sum()
    model.train(before)
    return right.item() / len(images)
