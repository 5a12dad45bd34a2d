"""CLIP models that score how well a picture fits a text, through open_clip, or through transformers for PIE-Bench."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from cpam_bench.eval.metrics.dino import cannot_load
from cpam_bench.eval.metrics.filters import Filter
from cpam_bench.imba.common import hub
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.common.names import recorded
from cpam_bench.imba.errors import UserError

POCKET_CLIP = Path(__file__).parents[1] / "weights" / "pocket-clip"
"""The small CLIP of the pocket scenes, in open_clip's folder layout."""

DEFAULT = "ViT-L-14/openai"
"""The scorer of PIE-Bench and of torchmetrics' CLIPScore."""


@dataclass
class ClipScorer:
    """An open_clip model with its own preprocessing and tokenizer, in float32.

    Attributes:
        name: as asked for.
        model, preprocess, tokenizer: open_clip's.
        device: where the model runs.
        weights_sha256: over its parameters and buffers as loaded.
        context_length: tokens that it reads of a text.
    """

    name: str
    model: Any
    preprocess: Any
    tokenizer: Any
    device: torch.device
    weights_sha256: str
    context_length: int
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def to(self, device: str) -> ClipScorer:
        """Move the model; returns itself."""
        self.device = torch.device(device)
        self.model.to(self.device)
        self._texts.clear()
        return self

    def with_filter(self, chosen: Filter) -> Any:
        """The preprocessing with another filter in the place of its own.

        Raises:
            UserError: it does not resize in one step, so that no filter can be put in its place.
        """
        steps = list(getattr(self.preprocess, "transforms", []))
        places = [i for i, step in enumerate(steps) if isinstance(step, transforms.Resize)]
        if len(places) != 1:
            raise UserError(f"the preprocessing of {self.name} has no filter of its own that could be another")
        size = steps[places[0]].size
        edge = size if isinstance(size, int) else min(size)
        step = transforms.Lambda(lambda image: chosen.picture(image.convert("RGB"), edge))
        return transforms.Compose([*steps[: places[0]], step, *steps[places[0] + 1 :]])

    @property
    def own_filter(self) -> str | None:
        """The name of the filter that its preprocessing resizes by, None where that is not one step."""
        found = [step for step in getattr(self.preprocess, "transforms", []) if isinstance(step, transforms.Resize)]
        return str(found[0].interpolation.value) if len(found) == 1 else None

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image], preprocess: Any = None) -> Tensor:
        """Embeddings of pictures, of length 1: (B, width) on its device."""
        pixels = torch.stack([(preprocess or self.preprocess)(image) for image in images]).to(self.device)
        found: Tensor = self.model.encode_image(pixels, normalize=True)
        return found

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of texts, of length 1: (B, width) on its device."""
        return torch.cat([self._text(prompt) for prompt in prompts])

    def similarity(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Cosine similarity of each picture with its prompt, (B,) float32 on the CPU, in [-1, 1]."""
        return (self.images(images) * self.texts(prompts)).sum(-1).float().cpu()

    def _text(self, prompt: str) -> Tensor:
        # One at a time and remembered: every method of a sample is scored against the same prompt.
        if prompt not in self._texts:
            self._texts[prompt] = self.model.encode_text(self.tokenizer([prompt]).to(self.device), normalize=True)
        return self._texts[prompt]

    def truncated(self, prompt: str) -> str | None:
        """The end of the prompt, from the first word that the model does not see whole; None if it sees all of it."""
        inner = getattr(self.tokenizer, "tokenizer", None)  # of a Hugging Face tokenizer

        def length(text: str) -> int:
            return len(inner(text, add_special_tokens=False).input_ids if inner else self.tokenizer.encode(text))

        room = self.context_length - 2  # start and end token
        if length(prompt) <= room:
            return None
        words = prompt.split()
        cut = bisect.bisect(range(1, len(words) + 1), room, key=lambda count: length(" ".join(words[:count])))
        return " ".join(words[cut:])

    def describe(self) -> dict[str, Any]:
        """What the store keeps of the scorer."""
        steps = [line.strip() for line in str(self.preprocess).splitlines()[1:-1]]
        return {
            "scorer": self.name,
            "weights_sha256": self.weights_sha256,
            "preprocess": [line for line in steps if not line.startswith("<")],
            "context_length": self.context_length,
        }


def load_clip(name: str = DEFAULT, device: str = "cpu") -> ClipScorer:
    """Load a scorer.

    Args:
        name: ``pocket``, ``MODEL/PRETRAINED`` as open_clip lists them (``ViT-L-14/openai``; PRETRAINED may be a file),
            ``hf-hub:ORGANISATION/NAME``, or ``local-dir:FOLDER`` (also just FOLDER) in open_clip's layout.
        device: a torch device.

    Raises:
        UserError: there is no such model, or its weights cannot be had.
    """
    name = recorded(name)
    model_name, pretrained = _resolve(name)
    # OpenAI's weights were trained with QuickGELU.  open_clip only warns if the architecture was asked for without it,
    # and then computes other scores.
    config = get_pretrained_cfg(model_name, pretrained) if pretrained else None
    quick = bool(config and config.get("quick_gelu"))
    try:
        with _reached(model_name, config):
            model, preprocess = open_clip.create_model_from_pretrained(
                model_name, pretrained, device=device, force_quick_gelu=quick
            )
            tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # open_clip, the hub client and torch each raise their own
        logging.getLogger(__name__).debug("loading %s failed", name, exc_info=True)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the CLIP scorer {name!r} cannot be loaded: {reason}\n"
            "Weights with a tag are fetched once over the network; without one give --clip pocket (only fit for pocket"
            " scenes), --clip MODEL/FILE, or --clip local-dir:FOLDER."
        ) from error
    model.eval().requires_grad_(False)
    length = int(getattr(tokenizer, "context_length", 0) or model.context_length)
    return ClipScorer(name, model, preprocess, tokenizer, torch.device(device), weights_hash(model), length)


def _reached(model: str, config: Mapping[str, Any] | None) -> AbstractContextManager[None]:
    """Weights that are here are taken without asking the hub; for others it is made sure that it answers.

    Raises:
        UserError: they are not here, and the hub does not answer.
    """
    repository = model.removeprefix("hf-hub:") if model.startswith("hf-hub:") else (config or {}).get("hf_hub", "")
    if not repository:
        return nullcontext()
    repository = "/".join(repository.split("/")[:2])  # open_clip names the file behind it
    if hub.snapshot(repository):
        return hub.offline()
    hub.require(repository)
    return nullcontext()


class _Transformers(nn.Module):
    """A CLIP of transformers that answers as open_clip's do."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def encode_image(self, pixels: Tensor, normalize: bool) -> Tensor:
        found = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return nn.functional.normalize(found, dim=-1) if normalize else found

    def encode_text(self, tokens: Tensor, normalize: bool) -> Tensor:
        found = self.model.text_projection(self.model.text_model(input_ids=tokens).pooler_output)
        return nn.functional.normalize(found, dim=-1) if normalize else found


@dataclass(frozen=True)
class _Preprocess:
    """The picture half of a processor of transformers, as one callable."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        found: Tensor = self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return found

    def __str__(self) -> str:
        steps = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "image_mean", "image_std")
        lines = [f"    {step}: {getattr(self.processor, step, None)}" for step in steps]
        return "\n".join([type(self.processor).__name__, *lines, "end"])


@dataclass(frozen=True)
class _Tokens:
    """A tokenizer of transformers that answers as open_clip's do, for one text at a time."""

    tokenizer: Any
    context_length: int

    def __call__(self, texts: list[str]) -> Tensor:
        found = self.tokenizer(texts, truncation=True, max_length=self.context_length, return_tensors="pt")
        tokens: Tensor = found.input_ids
        return tokens


def load_transformers(place: str, device: str = "cpu") -> ClipScorer:
    """A CLIP as transformers has it, with its own preprocessing, from a folder or by its name on the hub.

    Raises:
        UserError: it cannot be had, or is no CLIP.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    try:
        model = CLIPModel.from_pretrained(place, torch_dtype=torch.float32)
        processor, tokenizer = CLIPImageProcessor.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    except Exception as error:  # transformers, the hub client and safetensors each raise their own
        raise cannot_load("transformers-clip", place, error) from error
    digest = weights_hash(model)
    length = int(model.config.text_config.max_position_embeddings)
    adapted = _Transformers(model).eval().requires_grad_(False).to(device)
    return ClipScorer(
        place, adapted, _Preprocess(processor), _Tokens(tokenizer, length), torch.device(device), digest, length
    )


def _resolve(name: str) -> tuple[str, str | None]:
    """Model name and pretrained tag for open_clip."""
    if name == "pocket":
        if not (POCKET_CLIP / "open_clip_config.json").is_file():
            raise UserError(f"the pocket CLIP is not there: {POCKET_CLIP} has no open_clip_config.json")
        return f"local-dir:{POCKET_CLIP}", None
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    if (Path(name) / "open_clip_config.json").is_file():
        return f"local-dir:{name}", None
    model, slash, pretrained = name.partition("/")
    if not slash or not pretrained:
        raise UserError(f"--clip {name!r} is not MODEL/PRETRAINED, such as {DEFAULT}, nor pocket, nor local-dir:FOLDER")
    if model not in open_clip.list_models():
        raise UserError(f"open_clip has no model {model!r}; an example is {DEFAULT}")
    return model, pretrained
