"""A small classifier of the pocket scenes' objects and backgrounds: a second opinion beside the pocket CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from cpam_bench.imba.pocket.scenes import BACKGROUNDS, OBJECTS

POCKET_CLASSIFIER = Path(__file__).parents[1] / "weights" / "pocket-classifier.safetensors"

EDGE = 64
"""Of the pictures that it takes, in pixels."""


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
        objects, places = self(_pixels(pictures))
        return objects.argmax(1), places.argmax(1)

    @torch.inference_mode()
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """What its last layers decide by, of length 1: (B, 112)."""
        pixels = _pixels(pictures).to(self.objects.weight.device)
        return nn.functional.normalize(self.trunk(pixels), dim=-1)


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    resized = [picture.convert("RGB").resize((EDGE, EDGE), Image.Resampling.BICUBIC) for picture in pictures]
    return torch.from_numpy(np.stack([np.asarray(one) for one in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_classifier(path: Path = POCKET_CLASSIFIER) -> Classifier:
    model = Classifier()
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()})
    return model.eval()
