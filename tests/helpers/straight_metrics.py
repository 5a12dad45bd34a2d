"""PIE-Bench's seven metrics of one edit, computed straight: no batch, nothing kept, a metric at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision import transforms

from cpam_bench.eval.metrics.perceptual import load_lpips

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def framed(mask: np.ndarray) -> np.ndarray:
    """A mask whose outermost rows and columns count as edited."""
    made = mask.copy()
    made[[0, -1], :] = made[:, [0, -1]] = True
    return made


class Straight:
    """The networks, loaded once.

    Args:
        places: folders of the roles ``dino`` and ``transformers-clip``.
        net: trunk of LPIPS.
    """

    def __init__(self, places: Mapping[str, str], net: str = "squeeze"):
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, ViTModel

        self.dino = ViTModel.from_pretrained(places["dino"], add_pooling_layer=False).eval()
        clip = places["transformers-clip"]
        self.clip = CLIPModel.from_pretrained(clip).eval()
        self.processor, self.tokenizer = CLIPImageProcessor.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
        self.lpips = load_lpips(net)  # type: ignore[arg-type]

    @torch.inference_mode()
    def structure(self, source: Image.Image, edit: Image.Image, scale: float = 1) -> float:
        """The structure distance; pictures are divided by ``scale`` before they are normalised."""
        edge = self.dino.config.image_size
        prepare = transforms.Compose([transforms.Resize(edge), transforms.Normalize(MEAN, DEVIATION)])
        similar = []
        for image in (source, edit):
            # The input of the last block, and what its attention makes keys of.
            made = self.dino(pixel_values=prepare(pixels(image) / scale)[None], output_hidden_states=True)
            block = self.dino.layers[-1]
            keys = block.attention.k_proj(block.layernorm_before(made.hidden_states[-2]))[0]
            lengths = keys.norm(dim=1)
            similar.append(keys @ keys.T / (lengths[:, None] * lengths[None]))
        return functional.mse_loss(*similar).item()

    @torch.inference_mode()
    def cosine(self, image: Image.Image, prompt: str) -> float:
        """What torchmetrics computes: its own CLIPScore does not run with transformers 5."""
        raw = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        given = self.processor(images=[raw], return_tensors="pt")
        tokens = self.tokenizer([prompt], return_tensors="pt").input_ids
        made = self.clip(input_ids=tokens, pixel_values=given.pixel_values)
        return functional.cosine_similarity(made.image_embeds, made.text_embeds).item()

    @torch.inference_mode()
    def seven(self, source: Image.Image, edit: Image.Image, mask: np.ndarray, prompt: str) -> dict[str, float]:
        """Name in the published table -> value, NaN where it is not defined.

        Args:
            mask: what is edited, bool (H, W); its frame counts as edited too.
        """
        inside = framed(mask)
        found = {"structure_distance": self.structure(source, edit)}
        found |= dict.fromkeys(("psnr", "lpips", "mse", "ssim"), float("nan"))
        if not inside.all():
            a, b = ((pixels(one) / 255 * torch.from_numpy(~inside))[None] for one in (source, edit))
            found["mse"] = functional.mse_loss(a, b).item()
            found["psnr"] = float(10 * np.log10(1 / found["mse"])) if found["mse"] else float("inf")
            found["lpips"] = self.lpips(a * 2 - 1, b * 2 - 1).item()
            found["ssim"] = structural_similarity_index_measure(b, a, data_range=1.0).item()
        black = Image.fromarray(np.array(edit) * inside[..., None])
        whole, edited = (100 * max(self.cosine(one, prompt), 0) for one in (edit, black))
        return found | {"clip_whole": whole, "clip_edited": edited}
