"""The training of the classifier of objects and backgrounds, apart from the pocket CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from cpam_bench.eval.metrics.classifier import Classifier
from cpam_bench.eval.pocket.clip import small
from cpam_bench.eval.pocket.training import Run, cosine, example, half
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, HATS, POSES
from cpam_bench.imba.pocket.world import OBJECTS


def train(
    folder: Path,
    target: Path,
    steps: int = 1500,
    batch: int = 64,
    scenes: int = 12_000,
    lr: float = 1e-3,
    seed: int = 1,
) -> None:
    """Cross-entropy on pictures without a flaw, with shifts, noise and blur against a taste for exact pixels.

    The objects of a picture are judged each by itself (one, two or none); its hat and its pose are those of its only
    object, none and upright of any other picture.
    """
    torch.manual_seed(seed)
    names = list(OBJECTS)
    model = Classifier()
    heads = (model.objects, model.places, model.hats, model.poses)
    images = small(scenes, folder.parent)
    clean = [(i, shown.scene) for i in range(scenes) if not (shown := example(i)).flaws]
    seeds = np.array([i for i, _ in clean])
    things = torch.zeros(len(clean), len(names))
    for row, (_, one) in enumerate(clean):
        things[row, [names.index(item.name) for item in one.items]] = 1
    singles = [one.items[0] if len(one.items) == 1 else None for _, one in clean]
    places = torch.tensor([list(BACKGROUNDS).index(one.background) for _, one in clean])
    hats = torch.tensor([1 + HATS.index(item.hat) if item and item.hat else 0 for item in singles])
    poses = torch.tensor([POSES.index(item.pose) if item else 0 for item in singles])
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    run = Run(folder, steps, seed, {"model": model, "optimiser": optimiser})
    model.train()
    for step, rng in run:
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine(step, steps)
        chosen = rng.integers(len(seeds), size=batch)
        x = torch.from_numpy(images[seeds[chosen]]).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = torch.roll(x, tuple(int(s) for s in rng.integers(-4, 5, size=2)), dims=(2, 3))
        if rng.random() < 0.3:
            x = nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        x = x + 0.05 * torch.randn_like(x)
        with half("cpu"):
            features = model.trunk(x)
            said = [head(features).float() for head in heads]
        loss = nn.functional.binary_cross_entropy_with_logits(said[0], things[chosen]) * len(names) / 2
        for guessed, truth in zip(said[1:], (places, hats, poses), strict=True):
            loss = loss + nn.functional.cross_entropy(guessed, truth[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % 100 == 99:
            run.log(loss=loss.item(), lr=group["lr"])
    state = {name: t.half() if t.is_floating_point() else t for name, t in model.eval().state_dict().items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
