"""A small classifier of objects and backgrounds, apart from the pocket CLIP: a second opinion on what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from cpam_bench.eval.pocket.clip import EDGE, small
from cpam_bench.eval.pocket.training import Run, cosine, scene
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, OBJECTS

POCKET_CLASSIFIER = Path(__file__).parents[1] / "weights" / "pocket-classifier.safetensors"


class Classifier(nn.Module):
    """Image (B, 3, 64, 64) in [-1, 1] -> logits of the object and of the background, (B, 16) and (B, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ResNet(BasicBlock, (1, 1, 1, 1), channels=(24, 48, 72, 112), stem_width=24, num_classes=0)
        self.objects = nn.Linear(self.trunk.num_features, len(OBJECTS))
        self.places = nn.Linear(self.trunk.num_features, len(BACKGROUNDS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.objects(features), self.places(features)

    @torch.inference_mode()
    def guess(self, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """The likeliest object and background of each picture, as indices into OBJECTS and BACKGROUNDS."""
        resized = [picture.convert("RGB").resize((EDGE, EDGE), Image.Resampling.BICUBIC) for picture in pictures]
        x = torch.from_numpy(np.stack([np.asarray(one) for one in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1
        objects, places = self(x)
        return objects.argmax(1), places.argmax(1)


def load_classifier(path: Path = POCKET_CLASSIFIER) -> Classifier:
    model = Classifier()
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()})
    return model.eval()


def train(
    folder: Path,
    target: Path = POCKET_CLASSIFIER,
    steps: int = 900,
    batch: int = 64,
    scenes: int = 30_000,
    lr: float = 1e-3,
    seed: int = 1,
) -> None:
    """Cross-entropy on scenes of one object, with shifts, noise and blur against a taste for exact pixels."""
    torch.manual_seed(seed)
    model = Classifier()
    images = small(scenes, folder.parent)
    names, places = list(OBJECTS), list(BACKGROUNDS)
    single = [(i, one) for i in range(scenes) if len((one := scene(i)).items) == 1]
    seeds = np.array([i for i, _ in single])
    thing = torch.tensor([names.index(one.items[0].name) for _, one in single])
    place = torch.tensor([places.index(one.background) for _, one in single])
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
            objects, backgrounds = model(x)
        loss = nn.functional.cross_entropy(objects.float(), thing[chosen])
        loss = loss + nn.functional.cross_entropy(backgrounds.float(), place[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % 100 == 99:
            run.log(loss=loss.item(), lr=group["lr"])
    state = {name: t.half() if t.is_floating_point() else t for name, t in model.eval().state_dict().items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
