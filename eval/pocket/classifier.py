"""A small classifier of objects and backgrounds, apart from the pocket CLIP: a second opinion on what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from cpam_bench.eval.pocket.clip import EDGE, small
from cpam_bench.eval.pocket.training import Run, cosine, example
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, HATS, POSES
from cpam_bench.imba.pocket.world import OBJECTS

POCKET_CLASSIFIER = Path(__file__).parents[1] / "weights" / "pocket-classifier.safetensors"


@dataclass(frozen=True)
class Guess:
    """What a classifier sees in pictures, as indices.

    Attributes:
        objects: likeliness of each object, float (B, number of objects).
        places: the background, an index into BACKGROUNDS, (B,).
        hats: 0 for none, else 1 + an index into HATS, (B,); None of a classifier that was not taught them.
        poses: an index into POSES, (B,); None likewise.
        features: what the heads see, float (B, D).
    """

    objects: Tensor
    places: Tensor
    hats: Tensor | None
    poses: Tensor | None
    features: Tensor


class Classifier(nn.Module):
    """Image (B, 3, 64, 64) in [-1, 1] -> logits of the objects, the background and, if taught, the hat and the pose."""

    def __init__(self, objects: int, whole: bool = True) -> None:
        super().__init__()
        self.trunk = ResNet(BasicBlock, (1, 1, 1, 1), channels=(24, 48, 72, 112), stem_width=24, num_classes=0)
        width = self.trunk.num_features
        self.objects = nn.Linear(width, objects)
        self.places = nn.Linear(width, len(BACKGROUNDS))
        self.hats = nn.Linear(width, 1 + len(HATS)) if whole else None
        self.poses = nn.Linear(width, len(POSES)) if whole else None

    @torch.inference_mode()
    def guess(self, pictures: Sequence[Image.Image]) -> Guess:
        """What is in each picture (RGB, any size)."""
        resized = [picture.convert("RGB").resize((EDGE, EDGE), Image.Resampling.BICUBIC) for picture in pictures]
        x = torch.from_numpy(np.stack([np.asarray(one) for one in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1
        features = torch.cat([self.trunk(part) for part in x.split(64)])
        hats = None if self.hats is None else self.hats(features).argmax(1)
        poses = None if self.poses is None else self.poses(features).argmax(1)
        return Guess(self.objects(features), self.places(features).argmax(1), hats, poses, features)


def load_classifier(path: Path = POCKET_CLASSIFIER) -> Classifier:
    state = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
    model = Classifier(len(state["objects.weight"]), whole="hats.weight" in state)
    model.load_state_dict(state)
    return model.eval()


def train(
    folder: Path,
    target: Path = POCKET_CLASSIFIER,
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
    model = Classifier(len(names))
    heads = [head for head in (model.objects, model.places, model.hats, model.poses) if head is not None]
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
        with torch.autocast("cpu", torch.bfloat16):
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
