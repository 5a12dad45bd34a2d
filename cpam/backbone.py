"""A diffusion model to edit with: what every editor may rely on, and how a name becomes one.

What a kind of model has of its own is in :mod:`cpam_bench.cpam.backbones`.
"""

from __future__ import annotations

import functools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import interpolate

from cpam_bench.cpam.diffusion import Schedule
from cpam_bench.cpam.finite import Watch
from cpam_bench.cpam.repository import (
    INDEX,
    PICKLED,
    described,
    find,
    is_file,
    pickled,
    pipeline_class,
    require_channels,
    require_prediction,
)
from cpam_bench.cpam.text import Text
from cpam_bench.imba.common import hub
from cpam_bench.imba.common.hashes import are_pocket, weights_hash
from cpam_bench.imba.common.plugins import OWN, Group
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Resize = Literal["bicubic", "nearest", "lanczos"]
"""How pictures are brought to a backbone's resolution; see :meth:`Backbone.fit`."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

STABLE_DIFFUSION_LAYERS = 16
"""Self-attention layers of Stable Diffusion 1.x and 2.x, in which papers count; see :meth:`Backbone.layer`."""


class Model(Protocol):
    """A backbone by its name, before it is loaded: a frozen dataclass whose fields are its parameters.

    Class attributes:
        name: how it is called on the command line.
        title: as a reader knows it.
        reference: where it is published.
        family: what methods that run on some models only go by: ``sd1``, ``sd2`` or ``sdxl``.
        place: hub id, folder or file of its weights; empty if it is made otherwise.
        kind: class of the backbone that it becomes.  Folders and files that this class reads are opened by it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    family: ClassVar[str]
    place: ClassVar[str]
    kind: ClassVar[type[Backbone]]

    def load(self, device: str, dtype: str, resize: Resize) -> Backbone:
        """The model on a device, its networks in ``float32``, ``float16`` or ``bfloat16``.

        Raises:
            UserError: it cannot be had.
        """
        ...


BACKBONES: Group[Model] = Group(
    "cpam_bench.backbones",
    "backbone",
    {"name": str, "title": str, "reference": str, "family": str, "place": str, "kind": type},
    ("load",),
)
"""Every backbone with a name that is installed."""


@dataclass
class Backbone(ABC):
    """A latent diffusion model with a UNet, frozen.

    Class attributes:
        reads: names of diffusers' pipelines, as model_index.json has them, that this kind opens.
        opener: the class of diffusers that opens them, with ``options``.
        parts: names of the pipeline's networks.
        single: what the names of weights in a single file of this kind begin with.

    Attributes:
        name: as it was asked for.
        pipeline: the diffusers pipeline that holds the networks.
        device, dtype: where and how the networks run; latents and noise are float32 throughout.
        resolution: edge of an image in pixels.
        load_seconds: how long loading took.
        resize: the filter of :meth:`fit`.
        evaluations: how many latents (lanes) the denoiser has seen, for cost accounting.
    """

    reads: ClassVar[tuple[str, ...]]
    opener: ClassVar[Any]
    options: ClassVar[Mapping[str, Any]] = {}
    parts: ClassVar[tuple[str, ...]]
    single: ClassVar[str]

    name: str
    pipeline: Any
    device: torch.device
    dtype: torch.dtype
    resolution: int
    load_seconds: float = 0.0
    resize: Resize = "bicubic"
    evaluations: int = 0
    _texts: dict[tuple[str, bool], Text] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls, name: str = "pocket", device: str = "cpu", dtype: str = "float32", resize: Resize = "bicubic"
    ) -> Backbone:
        """Load a backbone by its name, a hub id, a folder in diffusers' layout, or a single file of safetensors.

        Raises:
            UserError: nothing that can be loaded is found under the name.
        """
        if dtype not in DTYPES:
            raise UserError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device {device!r} asked for, but this torch sees no CUDA device; use --device cpu")
        if not BACKBONES.entry_points() or is_named(name):
            label, model = BACKBONES.make(name)
            loaded = model.load(device, dtype, resize)
            loaded.name = label
            return loaded
        return kind_of(name).open(name, name, device, dtype, resize)

    @classmethod
    def open(cls, place: str, name: str, device: str, dtype: str, resize: Resize) -> Backbone:
        """Load this kind of backbone from a hub id, a folder or a single file.

        Raises:
            UserError: it cannot be loaded.
        """
        started = time.monotonic()
        options = {"dtype": cls.dtypes(DTYPES[dtype]), **cls.options}
        if is_file(place):
            pipeline = cls._read_file(Path(place), name, options)
        else:
            found = find(place, cls.parts)
            with _told(name), _quiet():
                pipeline = cls.opener.from_pretrained(
                    found.folder, variant=found.variant, use_safetensors=True, local_files_only=True, **options
                )
        return cls.from_pipeline(pipeline, name, device, time.monotonic() - started, resize)

    @classmethod
    def _read_file(cls, file: Path, name: str, options: Mapping[str, Any]) -> Any:
        """The pipeline in one file; its configuration is in a folder of the file's name beside it, or on the hub."""
        beside = file.with_suffix("")
        config = {"config": str(beside)} if (beside / INDEX).is_file() else {}

        def read(local: bool) -> Any:
            return cls.opener.from_single_file(str(file), local_files_only=local, **config, **options)

        with _told(name), _quiet():
            try:
                return read(True)
            except (OSError, ValueError):
                if config:
                    raise
            if why := hub.trouble():
                raise UserError(
                    f"backbone {file} needs the configuration of its kind of model, which is fetched from"
                    f" {hub.endpoint()}, and that cannot be reached: {why}. Bring the model's *.json files in a folder"
                    f" {beside} beside it"
                )
            return read(False)

    @classmethod
    def from_pipeline(
        cls, pipeline: Any, name: str, device: str = "cpu", seconds: float = 0.0, resize: Resize = "bicubic"
    ) -> Backbone:
        """Wrap a pipeline that is already loaded, as the kind of backbone that it is.

        Raises:
            UserError: no kind of backbone reads it; its denoiser takes or predicts something else than is known, or is
                not made for latents of one square size.
        """
        kind = cls if hasattr(cls, "reads") else _kind_reading(type(pipeline).__name__, name)
        require_channels(pipeline.unet.config, name)
        require_prediction(pipeline.scheduler.config, name)
        size = pipeline.unet.config.sample_size
        if not isinstance(size, int):
            raise UserError(
                f"backbone {name!r}: its unet's sample_size is {size!r}; square latents of one size are supported, so"
                " set the edge in the unet's config.json"
            )
        for part in kind.parts:
            getattr(pipeline, part).to(device).eval().requires_grad_(False)
        resolution = size * pipeline.vae_scale_factor
        made = kind(name, pipeline, torch.device(device), pipeline.unet.dtype, resolution, seconds, resize)
        made.texts([""])  # transformers hangs its hooks into an encoder when that is first used; they belong to it
        return made

    @classmethod
    def dtypes(cls, dtype: torch.dtype) -> Any:
        """What diffusers is to load the networks in, as its argument ``dtype`` takes it."""
        return dtype

    @classmethod
    @abstractmethod
    def family_of(cls, unet: Mapping[str, Any]) -> str:
        """The family, as :class:`Model` has it, of a model of this kind by the configuration of its UNet."""

    @property
    def family(self) -> str:
        """What methods that run on some models only go by: ``sd1``, ``sd2`` or ``sdxl``."""
        return self.family_of(self.unet.config)

    @functools.cached_property
    def is_pocket(self) -> bool:
        """Whether it is the small embedded model, told by its weights, whatever it is called."""
        return self.name.partition(":")[0] == "pocket" or are_pocket(self.fingerprint.values())

    @property
    def unet(self) -> Any:
        return self.pipeline.unet

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the latents."""
        edge = self.resolution // self.pipeline.vae_scale_factor
        return edge, edge

    @property
    def self_layers(self) -> int:
        """Number of self-attention layers; 16 in SD 1.x and 2.x, 70 in SDXL."""
        return sum(".attn1." in name for name in self.unet.attn_processors)

    @property
    def cross_layers(self) -> int:
        """Number of cross-attention layers; 16 in SD 1.x and 2.x, 70 in SDXL."""
        return sum(".attn2." in name for name in self.unet.attn_processors)

    def layer(self, of_sixteen: int) -> int:
        """The self-attention layer, from 0, where one of Stable Diffusion's 16 is on the way through the UNet.

        Of SDXL's 70, layer 8 of 16 is 35 and layer 10 is 44, from which MasaCtrl's authors act on SDXL.
        """
        return round(of_sixteen * self.self_layers / STABLE_DIFFUSION_LAYERS)

    @property
    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of each network's weights as loaded: component -> hex digest."""
        return {name: weights_hash(getattr(self.pipeline, name)) for name in self.parts}

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
        posterior = self.pipeline.vae.encode(pixels.to(self.device, self.pipeline.vae.dtype)).latent_dist
        drawn = posterior.mean if random is None else posterior.sample(random)
        latents: Tensor = drawn * self.pipeline.vae.config.scaling_factor
        return latents.float()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Image.Image:
        """Latents (1, C, h, w) -> RGB image.

        Raises:
            NotFinite: latents or pixels are NaN or infinite, which would show as black.
        """
        scaled = latents.to(self.device, self.pipeline.vae.dtype) / self.pipeline.vae.config.scaling_factor
        pixels = self.pipeline.vae.decode(scaled).sample[0].float()
        watch = Watch("decoding")
        watch.see(scaled)
        watch.see(pixels)
        watch.check()
        pixels = pixels.clamp(-1, 1)
        return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())

    # text -----------------------------------------------------------------------------------------------------------

    def embed(self, prompt: str) -> Tensor:
        """What cross-attention sees of a prompt, (1, tokens, D): all that Stable Diffusion 1.x and 2.x take.

        Where a model may take more (SDXL), :meth:`text` has it all.
        """
        return self.text(prompt).hidden

    def text(self, prompt: str, zeros: bool = True) -> Text:
        """What the denoiser is told of a prompt, one lane; remembered, for the same prompts come back often.

        Args:
            zeros: of the empty prompt take zeros where the model was trained so (SDXL); False encodes its tokens.
        """
        if (prompt, zeros) not in self._texts:
            self._texts[prompt, zeros] = self.texts([prompt], zeros)
        return self._texts[prompt, zeros]

    @abstractmethod
    def texts(self, prompts: Sequence[str], zeros: bool = True) -> Text:
        """As :meth:`text`, of several prompts, one lane each; not remembered."""

    def token_ids(self, prompt: str) -> Tensor:
        """Token ids (1, tokens), padded and cut to the text encoder's length."""
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
        return torch.tensor([ids])

    def tokens(self, text: str) -> list[int]:
        """Ids of a text's own tokens: no start, no end, no padding, nothing cut."""
        ids: list[int] = self.pipeline.tokenizer(text, truncation=False, add_special_tokens=False).input_ids
        return ids

    @property
    def length(self) -> int:
        """How many tokens the text encoder sees, start and end among them; 77 for CLIP."""
        return int(self.pipeline.tokenizer.model_max_length)

    def truncated(self, prompt: str) -> str | None:
        """The end of the prompt that the text encoder never sees, or None if it sees all of it."""
        ids, room = self.tokens(prompt), self.length - 2
        return str(self.pipeline.tokenizer.decode(ids[room:])).strip() if len(ids) > room else None

    def word_positions(self, prompt: str, part: str | None = None) -> list[int]:
        """Positions of a prompt's words among its tokens, start, end and padding left out.

        Args:
            part: words of the prompt; only theirs are given, or all where they do not stand in the prompt.
        """
        ids = self.tokens(prompt)[: self.length - 2]
        wanted = self.tokens(part) if part else []
        for start in range(len(ids) - len(wanted) + 1):
            if wanted and ids[start : start + len(wanted)] == wanted:
                return list(range(1 + start, 1 + start + len(wanted)))
        return list(range(1, 1 + len(ids)))

    def added(self, text: Text) -> dict[str, Tensor] | None:
        """What the UNet takes beside the hidden states, as its argument ``added_cond_kwargs``."""
        return None

    # diffusion ------------------------------------------------------------------------------------------------------

    def scheduler(self) -> DDIMScheduler:
        """A new DDIM scheduler over the backbone's noise levels, as CPAM's and MasaCtrl's releases run it.

        Leading spacing, offset 1, alpha_final = alpha_0, no clipping.
        """
        from diffusers import DDIMScheduler  # half of what a list of methods would wait for

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
    def predict(self, latents: Tensor, timestep: int, text: Text | Tensor) -> Tensor:
        """Predicted noise, float32.

        Args:
            latents: (lanes, C, h, w).
            timestep: of training, 0 ... 999.
            text: of as many lanes; a tensor (lanes, tokens, D) is enough for a model that takes no more.
        """
        return self.predict_with_gradient(latents, timestep, text)

    def predict_with_gradient(self, latents: Tensor, timestep: int, text: Text | Tensor) -> Tensor:
        """As :meth:`predict`, but gradients flow back to latents and text; the weights stay frozen."""
        text = text if isinstance(text, Text) else Text(text)
        if not torch.is_inference_mode_enabled():
            # autograd refuses what encode, text and predict have made; it takes copies of them.
            latents = _writable(latents)
            text = text.each(_writable)
        self.evaluations += len(latents)
        lanes = latents.to(self.device, self.dtype)
        told = text.hidden.to(self.dtype)
        added = self.added(text)
        output: Tensor = self.unet(lanes, timestep, encoder_hidden_states=told, added_cond_kwargs=added).sample.float()
        kind = self.pipeline.scheduler.config.prediction_type
        if kind == "epsilon":
            return output
        if kind == "v_prediction":  # SD 2.x at 768 px
            alpha: float = self.pipeline.scheduler.alphas_cumprod[timestep].item()
            noise: Tensor = alpha**0.5 * output + (1 - alpha) ** 0.5 * latents.float()
            return noise
        raise UserError(f"backbone {self.name!r} predicts {kind!r}; epsilon and v_prediction are supported")


class Published:
    """A backbone by its name that is loaded from one place; base of a :class:`Model`."""

    place: ClassVar[str]
    kind: ClassVar[type[Backbone]]

    def load(self, device: str, dtype: str, resize: Resize) -> Backbone:
        return self.kind.open(self.place, self.place, device, dtype, resize)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars while a pipeline loads: the caller decides what is printed."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    bars = (of_diffusers, of_transformers)
    for bar in bars:
        bar.disable_progress_bar()
    try:
        yield
    finally:
        for bar in bars:
            bar.enable_progress_bar()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What libraries say of a model that they cannot load, as one of ours."""
    try:
        yield
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"backbone {name!r} cannot be loaded: {str(error).splitlines()[0]}\n{_instead()}") from error


def _instead() -> str:
    known = ", ".join(sorted(BACKBONES.entry_points()))
    return f"Give one of {known}, a hub id that this machine can reach, or a folder in diffusers' layout."


def is_named(label: str) -> bool:
    """Whether a label is of an installed backbone, and not a hub id or a path."""
    return label.partition(":")[0] in BACKBONES.entry_points()


def place_of(label: str) -> str:
    """Where the weights of a backbone are: hub id, folder or file; of a path or a hub id, itself.

    Raises:
        UserError: it has a name, and cannot be loaded by it.
    """
    return BACKBONES.load(label.partition(":")[0]).place if is_named(label) else label


def family_of(label: str) -> str:
    """The family of a backbone as ``--backbone`` takes it, told without loading its weights.

    Raises:
        UserError: nothing is found under it.
    """
    if is_named(label):
        return BACKBONES.load(label.partition(":")[0]).family
    kind = kind_of(label)
    if is_file(label):
        raise UserError(f"{label} is a single file, which only loading tells more of; give a name or a folder")
    with _told(label):
        config = json.loads((described(label) / "unet" / "config.json").read_text(encoding="utf-8"))
    return kind.family_of(config)


def kind_of(place: str) -> type[Backbone]:
    """The kind of backbone that opens a hub id, a folder or a single file, told by what it holds.

    Raises:
        UserError: it cannot be read, or no kind of backbone opens it.
    """
    if is_file(place):
        return _kind_holding(Path(place))
    try:
        folder = described(place)
    except UserError as error:
        raise UserError(f"{error}. {_instead()}") from error
    return _kind_reading(pipeline_class(folder, place), place)


def kinds() -> list[type[Backbone]]:
    """Every kind of backbone that is installed, this package's own first, so that no other takes their folders."""
    found, _ = BACKBONES.load_all()
    own = sorted(found, key=lambda name: not BACKBONES.package_of(name).startswith(f"{OWN} "))
    return list(dict.fromkeys(found[name].kind for name in own))


def _kind_reading(pipeline: str, name: str) -> type[Backbone]:
    for kind in kinds():
        if pipeline in kind.reads:
            return kind
    known = ", ".join(read for kind in kinds() for read in kind.reads)
    raise UserError(f"backbone {name!r} is a {pipeline}, which cannot be edited with; it must be one of {known}")


def _kind_holding(file: Path) -> type[Backbone]:
    if file.suffix in PICKLED:
        raise pickled(str(file), file.name)
    try:
        with safe_open(file, "pt") as weights:
            names = list(weights.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"backbone {file} is no whole file of safetensors: {error}") from error
    for kind in kinds():
        if any(name.startswith(kind.single) for name in names):
            return kind
    raise UserError(f"backbone {file} holds no text encoder of Stable Diffusion or SDXL; give a whole checkpoint")


def _writable(values: Tensor) -> Tensor:
    return values.clone() if values.is_inference() else values
