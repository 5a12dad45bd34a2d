"""A diffusion model to edit with: one object around a diffusers Stable Diffusion pipeline."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers.utils import logging as transformers_logging

from cpam_bench.cpam.finite import Watch
from cpam_bench.imba.common.hashes import are_pocket, weights_hash
from cpam_bench.imba.errors import UserError

NAMES: dict[str, str] = {
    "pocket": str(Path(__file__).parent / "weights" / "pocket"),
    "sd14": "CompVis/stable-diffusion-v1-4",
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Short names of backbones; anything else is a hub id or a folder in diffusers' layout."""

Resize = Literal["bicubic", "nearest", "lanczos"]
"""How pictures are brought to a backbone's resolution; see :meth:`Backbone.fit`."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Backbone:
    """A Stable Diffusion 1.x or 2.x model, frozen.

    Attributes:
        name: as it was asked for.
        pipeline: the diffusers pipeline that holds the networks.
        device, dtype: where and how the networks run; latents and noise are float32 throughout.
        resolution: edge of an image in pixels.
        load_seconds: how long loading took.
        resize: the filter of :meth:`fit`.
        evaluations: how many latents (lanes) the denoiser has seen, for cost accounting.
    """

    name: str
    pipeline: StableDiffusionPipeline
    device: torch.device
    dtype: torch.dtype
    resolution: int
    load_seconds: float = 0.0
    resize: Resize = "bicubic"
    evaluations: int = 0
    _embeddings: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls, name: str = "pocket", device: str = "cpu", dtype: str = "float32", resize: Resize = "bicubic"
    ) -> Backbone:
        """Load ``pocket``, ``sd14``, ``sd15``, a hub id, or a folder.

        Raises:
            UserError: nothing loadable is found under the name, or it is no Stable Diffusion with one text encoder.
        """
        started = time.monotonic()
        if dtype not in DTYPES:
            raise UserError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
        place = NAMES.get(name, name)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device {device!r} asked for, but this torch sees no CUDA device; use --device cpu")
        local = Path(place)
        if local.exists() and not (local / "model_index.json").is_file():
            raise UserError(f"backbone folder {local} has no model_index.json; it must be in diffusers' layout")
        try:
            with _quiet():
                pipeline = StableDiffusionPipeline.from_pretrained(
                    place, dtype=DTYPES[dtype], safety_checker=None, requires_safety_checker=False
                )
        except (OSError, ValueError) as error:
            known = ", ".join(NAMES)
            raise UserError(
                f"backbone {name!r} cannot be loaded: {str(error).splitlines()[0]}\n"
                f"Give one of {known}, a hub id that this machine can reach, or a folder in diffusers' layout."
            ) from error
        return cls.from_pipeline(pipeline, name, device, time.monotonic() - started, resize)

    @classmethod
    def from_pipeline(
        cls, pipeline: Any, name: str, device: str = "cpu", seconds: float = 0.0, resize: Resize = "bicubic"
    ) -> Backbone:
        """Wrap a pipeline that is already loaded; its scheduler is replaced by the DDIM of :meth:`schedule`.

        Raises:
            UserError: the denoiser is not made for latents of one square size.
        """
        size = pipeline.unet.config.sample_size
        if not isinstance(size, int):
            raise UserError(
                f"backbone {name!r}: its unet's sample_size is {size!r}; square latents of one size are supported, so"
                " set the edge in the unet's config.json"
            )
        for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
            part.to(device).eval().requires_grad_(False)
        resolution = size * pipeline.vae_scale_factor
        return cls(name, pipeline, torch.device(device), pipeline.unet.dtype, resolution, seconds, resize)

    @functools.cached_property
    def is_pocket(self) -> bool:
        """Whether it is the small embedded model, told by its weights, whatever it is called."""
        return self.name == "pocket" or are_pocket(self.fingerprint.values())

    @property
    def unet(self) -> Any:
        return self.pipeline.unet

    @property
    def cross_layers(self) -> int:
        """Number of cross-attention layers; 16 in SD 1.x."""
        return sum(".attn2." in name for name in self.unet.attn_processors)

    @property
    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of each network's weights as loaded: component -> hex digest."""
        parts = {"vae": self.pipeline.vae, "unet": self.unet, "text_encoder": self.pipeline.text_encoder}
        return {name: weights_hash(part) for name, part in parts.items()}

    # images and latents ---------------------------------------------------------------------------------------------

    def fit(self, image: Image.Image) -> Image.Image:
        """The image as RGB in a square of the backbone's resolution.

        ``bicubic`` and ``lanczos`` are Pillow's, antialiased; ``nearest`` is :func:`torch.nn.functional.interpolate`'s.
        The authors' CPAM release takes the first on Stable Diffusion 2.1 and SDXL (``open_rgb``), the last on 1.5
        (``load_image``), as MasaCtrl's and FPE's notebooks do.
        """
        image, size = image.convert("RGB"), (self.resolution, self.resolution)
        if self.resize == "nearest":
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
            return Image.fromarray(interpolate(pixels, size, mode="nearest")[0].byte().permute(1, 2, 0).numpy())
        return image.resize(
            size, {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}[self.resize]
        )

    def fit_mask(self, mask: np.ndarray) -> np.ndarray:
        """A bool mask (H, W) at the backbone's resolution, nearest neighbour."""
        resized = Image.fromarray(mask.astype(np.uint8)).resize((self.resolution,) * 2, Image.Resampling.NEAREST)
        return np.asarray(resized).astype(bool)

    @torch.inference_mode()
    def encode(self, image: Image.Image, random: torch.Generator | None = None) -> Tensor:
        """Image of the backbone's resolution -> latents (1, C, h, w) x scaling factor, float32.

        Args:
            random: of the CPU; draws a sample of the posterior, whose mean is taken without it.
        """
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1
        posterior = self.pipeline.vae.encode(pixels.to(self.device, self.dtype)).latent_dist
        drawn = posterior.mean if random is None else posterior.sample(random)
        latents: Tensor = drawn * self.pipeline.vae.config.scaling_factor
        return latents.float()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Image.Image:
        """Latents (1, C, h, w) -> RGB image.

        Raises:
            NotFinite: latents or pixels are NaN or infinite, which would show as black.
        """
        scaled = latents.to(self.device, self.dtype) / self.pipeline.vae.config.scaling_factor
        pixels = self.pipeline.vae.decode(scaled).sample[0].float()
        watch = Watch("decoding")
        watch.see(scaled)
        watch.see(pixels)
        watch.check()
        pixels = pixels.clamp(-1, 1)
        return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())

    # text -----------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def embed(self, prompt: str) -> Tensor:
        """Prompt -> text embedding (1, tokens, D); remembered, for the same prompts come back often."""
        if prompt not in self._embeddings:
            self._embeddings[prompt] = self.embed_each([prompt])
        return self._embeddings[prompt]

    @torch.inference_mode()
    def embed_each(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> text embeddings (prompts, tokens, D), not remembered."""
        ids = torch.cat([self.token_ids(prompt) for prompt in prompts])
        embeddings: Tensor = self.pipeline.text_encoder(ids.to(self.device))[0]
        return embeddings

    def token_ids(self, prompt: str) -> Tensor:
        """Token ids (1, tokens), padded and cut to the text encoder's length."""
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
        return torch.tensor([ids])

    def truncated(self, prompt: str) -> str | None:
        """The end of the prompt that the text encoder never sees, or None if it sees all of it."""
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(prompt, truncation=False, add_special_tokens=False).input_ids
        room = tokenizer.model_max_length - 2  # start and end token
        return str(tokenizer.decode(ids[room:])).strip() if len(ids) > room else None

    def word_positions(self, prompt: str, part: str | None = None) -> list[int]:
        """Positions of a prompt's words among its tokens, start, end and padding left out.

        Args:
            part: words of the prompt; only theirs are given, or all where they do not stand in the prompt.
        """
        tokenizer = self.pipeline.tokenizer
        room = tokenizer.model_max_length - 2
        ids = tokenizer(prompt, add_special_tokens=False).input_ids[:room]
        wanted = tokenizer(part, add_special_tokens=False).input_ids if part else []
        for start in range(len(ids) - len(wanted) + 1):
            if wanted and ids[start : start + len(wanted)] == wanted:
                return list(range(1 + start, 1 + start + len(wanted)))
        return list(range(1, 1 + len(ids)))

    # diffusion ------------------------------------------------------------------------------------------------------

    def scheduler(self) -> DDIMScheduler:
        """A new DDIM scheduler over the backbone's noise levels, as CPAM's and MasaCtrl's releases run it.

        Leading spacing, offset 1, alpha_final = alpha_0, no clipping.
        """
        return DDIMScheduler.from_config(
            self.pipeline.scheduler.config,
            timestep_spacing="leading",
            steps_offset=1,
            set_alpha_to_one=False,
            clip_sample=False,
        )

    def schedule(self, steps: int) -> Schedule:
        """The steps of :meth:`scheduler`.

        Raises:
            UserError: the number of steps is out of range.
        """
        scheduler = self.scheduler()
        trained = scheduler.config.num_train_timesteps
        if not 1 <= steps < trained:
            raise UserError(f"steps must be between 1 and {trained - 1}, not {steps}")
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        stride, alphas = trained // steps, self.alphas
        return Schedule(
            timesteps=timesteps,
            alphas=[alphas[t] for t in timesteps],
            previous_alphas=[alphas[max(t - stride, 0)] for t in timesteps],
        )

    @property
    def alphas(self) -> list[float]:
        """Cumulative alpha of every level of training, 0 ... 999."""
        levels: list[float] = self.scheduler().alphas_cumprod.double().tolist()
        return levels

    @torch.inference_mode()
    def predict(self, latents: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        """Predicted noise, float32.

        Args:
            latents: (lanes, C, h, w).
            timestep: of training, 0 ... 999.
            embeddings: (lanes, tokens, D).
        """
        return self.predict_with_gradient(latents, timestep, embeddings)

    def predict_with_gradient(self, latents: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        """As :meth:`predict`, but gradients flow back to latents and embeddings; the weights stay frozen."""
        if not torch.is_inference_mode_enabled():
            # autograd refuses what encode, embed and predict have made; it takes copies of them.
            latents, embeddings = (x.clone() if x.is_inference() else x for x in (latents, embeddings))
        self.evaluations += len(latents)
        lanes = latents.to(self.device, self.dtype)
        output: Tensor = self.unet(lanes, timestep, encoder_hidden_states=embeddings.to(self.dtype)).sample.float()
        kind = self.pipeline.scheduler.config.prediction_type
        if kind == "epsilon":
            return output
        if kind == "v_prediction":  # SD 2.x at 768 px
            alpha: float = self.pipeline.scheduler.alphas_cumprod[timestep].item()
            noise: Tensor = alpha**0.5 * output + (1 - alpha) ** 0.5 * latents.float()
            return noise
        raise UserError(f"backbone {self.name!r} predicts {kind!r}; epsilon and v_prediction are supported")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars while a pipeline loads: the caller decides what is printed."""
    bars = (diffusers_logging, transformers_logging)
    for bar in bars:
        bar.disable_progress_bar()
    try:
        yield
    finally:
        for bar in bars:
            bar.enable_progress_bar()


@dataclass(frozen=True)
class Schedule:
    """Timesteps from noisy to clean, with the cumulative alphas before and after each step."""

    timesteps: list[int]
    alphas: list[float]
    previous_alphas: list[float]

    def __len__(self) -> int:
        return len(self.timesteps)

    def levels(self) -> Iterator[tuple[int, float, float]]:
        """Timestep and cumulative alphas before and after each step, from noisy to clean."""
        return zip(self.timesteps, self.alphas, self.previous_alphas, strict=True)


def ddim(latents: Tensor, noise: Tensor, alpha_from: float, alpha_to: float) -> Tensor:
    """One deterministic DDIM move between two noise levels, in either direction (Song et al. 2021, Eq. 12, eta = 0)."""
    clean = (latents - (1 - alpha_from) ** 0.5 * noise) / alpha_from**0.5
    moved: Tensor = alpha_to**0.5 * clean + (1 - alpha_to) ** 0.5 * noise
    return moved


def noised(latents: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """z_0 -> z at the level of a cumulative alpha, with noise of unit variance (Ho et al. 2020, Eq. 4)."""
    mixed: Tensor = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
    return mixed
