"""A small classifier of what pocket scenes show: a second opinion beside the pocket CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from cpam_bench.imba.pocket.scenes import BACKGROUNDS, HATS, POSES
from cpam_bench.imba.pocket.world import OBJECTS

POCKET_CLASSIFIER = Path(__file__).parents[1] / "weights" / "pocket-classifier.safetensors"

EDGE = 64
"""Of the pictures that it takes, in pixels."""


@dataclass(frozen=True)
class Guess:
    """What a classifier sees in pictures.

    Attributes:
        objects: likeliness of each object, float (B, number of objects).
        places: the background, an index into BACKGROUNDS, (B,).
        hats: of a single object: 0 for none, else 1 + an index into HATS, (B,).
        poses: of a single object: an index into POSES, (B,).
        features: what the heads see, float (B, D).
    """

    objects: Tensor
    places: Tensor
    hats: Tensor
    poses: Tensor
    features: Tensor


class Classifier(nn.Module):
    """Image (B, 3, 64, 64) in [-1, 1] -> logits of the objects, the background, the hat and the pose."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ResNet(BasicBlock, (1, 1, 1, 1), channels=(24, 48, 72, 112), stem_width=24, num_classes=0)
        width = self.trunk.num_features
        self.objects = nn.Linear(width, len(OBJECTS))
        self.places = nn.Linear(width, len(BACKGROUNDS))
        self.hats = nn.Linear(width, 1 + len(HATS))
        self.poses = nn.Linear(width, len(POSES))

    @torch.inference_mode()
    def guess(self, pictures: Sequence[Image.Image]) -> Guess:
        """What is in each picture (RGB, any size)."""
        features = torch.cat([self.trunk(part) for part in _pixels(pictures).split(64)])
        places, hats, poses = (head(features).argmax(1) for head in (self.places, self.hats, self.poses))
        return Guess(self.objects(features), places, hats, poses, features)

    @torch.inference_mode()
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """What its last layers decide by, of length 1: (B, 112)."""
        pixels = _pixels(pictures).to(self.objects.weight.device)
        return nn.functional.normalize(self.trunk(pixels), dim=-1)


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    resized = [picture.convert("RGB").resize((EDGE, EDGE), Image.Resampling.BICUBIC) for picture in pictures]
    return torch.from_numpy(np.stack([np.asarray(one) for one in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_classifier(path: Path = POCKET_CLASSIFIER) -> Classifier:
    """The classifier of a file."""
    state = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
    model = Classifier()
    model.load_state_dict(state)
    return model.eval()
