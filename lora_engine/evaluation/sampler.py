"""Generates pictures from fixed prompts and seeds with the base model, or with several adapters at once.

Shape legend: L tokens of a text, D features of a token; C, H and W channels, height and width of a picture.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.evaluation import SamplerName
from lora_engine.dataset.encode import encode_texts, tokens_of
from lora_engine.models import schedule, stable_diffusion
from lora_engine.models.conditioning import conditioning, text_encoder_of
from lora_engine.models.files import LocalModel
from lora_engine.records import SampleSetting


@dataclass(frozen=True)
class Request:
    """A picture that each of some adapters is asked for: with the same noise, and each adapter with its own text."""

    texts: Mapping[str | None, str]  # adapter's name to its text; None for the base model, which draws alone
    seed: int
    setting: SampleSetting


@dataclass(frozen=True)
class Sample:
    """A picture that was generated, or none."""

    adapter: str | None  # its name; None for the base model
    request: int  # the place of its request
    image: Image.Image | None  # None where its pixels are not all finite


class Sampler:
    """The base model's pipeline around a UNet that is already loaded; its other parts in the UNet's dtype.

    Args:
        unet: with the adapters injected; without any it generates as it is.
        texts: all that will be asked for, negative prompts too: they are encoded now, and the text encoder is freed,
            unless one is trained with the UNet.
        images_at_once: how many images of each adapter may pass through the UNet at once. With guidance every image
            counts twice; where that is more than may, adapters take turns.
        name: of the sampler; None for the base model's own.
        activate: lets the UNet compute with adapters, by name, at a strength; as the base model where none is named.
    """

    def __init__(
        self,
        model: LocalModel,
        unet: nn.Module,
        texts: Collection[str],
        images_at_once: int,
        device: torch.device,
        name: SamplerName | None = None,
        activate: Callable[[nn.Module, Sequence[str], float], None] = lora.activate,
    ) -> None:
        from diffusers import StableDiffusionPipeline

        self._unet, self._device, self._images_at_once, self._activate = unet, device, images_at_once, activate
        # The pipeline decides in the same way: a distilled UNet takes the guidance as an input.
        self._can_guide = getattr(unet.config, "time_cond_proj_dim", None) is None
        if text_encoder_of(unet) is None:
            self._texts = _embeddings(model, texts, next(unet.parameters()).dtype, device)
        else:  # Each adapter encodes texts in its own way.
            different = sorted(set(texts))
            tokens = tokens_of(stable_diffusion.load_tokenizer(model), different)
            self._texts = dict(zip(different, tokens, strict=True))
        vae = stable_diffusion.load_vae(model).to(next(unet.parameters()).dtype)
        vae.enable_slicing()  # decodes image by image: all at once take as long, and far more memory
        self._pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            unet=unet,
            scheduler=schedule.load_sampler(model, name),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(device)
        self._pipeline.set_progress_bar_config(disable=True)

    def generate(
        self,
        requests: Sequence[Request],
        check: Callable[[], None],
        kept: Callable[[str | None, int], Image.Image | None] = lambda _adapter, _request: None,
    ) -> Iterator[list[Sample]]:
        """Generate all that is requested. Requests for the same adapters with the same setting pass together.

        The starting noise is drawn on the CPU, so it is the same on any device and for every adapter.

        Args:
            check: called at every denoising step; what it raises ends the generation.
            kept: gives an adapter's picture of a request, by its place, that an earlier start generated; None where it
                did not. Those that pass together are taken as they are only where all of them are kept.

        Yields:
            The pictures that were generated at once.
        """
        groups: dict[tuple[tuple[str | None, ...], SampleSetting], list[int]] = {}
        for at, request in enumerate(requests):
            names = tuple(request.texts)
            in_turns = self._images_at_once < self._copies(request.setting)
            for together in ([name] for name in names) if in_turns else (names,):
                groups.setdefault((tuple(together), request.setting), []).append(at)
        for (names, setting), places in groups.items():
            at_once = max(1, self._images_at_once // self._copies(setting))
            for start in range(0, len(places), at_once):
                batch = places[start : start + at_once]
                earlier = [Sample(name, at, kept(name, at)) for name, at in product(names, batch)]
                if all(one.image is not None for one in earlier):
                    yield earlier
                else:
                    yield self._generate(names, setting, requests, batch, check)

    def _copies(self, setting: SampleSetting) -> int:
        """How often an image stands in the UNet's batch: once, or without and with the prompt."""
        return 2 if setting.guidance > 1 and self._can_guide else 1

    def _generate(
        self,
        names: Sequence[str | None],
        setting: SampleSetting,
        requests: Sequence[Request],
        batch: Sequence[int],
        check: Callable[[], None],
    ) -> list[Sample]:
        """Generate a batch of the requests, by their places, with all of these adapters at once."""

        def at_step(_pipeline: Any, _step: int, _timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
            check()
            return kept

        # The pipeline puts the images without the prompt before those with it, so all adapters come twice.
        copies = self._copies(setting)
        self._activate(self._unet, [name for name in names if name is not None] * copies, setting.strength)
        wanted = list(product(names, batch))
        texts = [setting.negative] * (len(wanted) * (copies - 1)) + [requests[at].texts[name] for name, at in wanted]
        with torch.inference_mode():
            stacked = torch.stack([self._texts[text] for text in texts]).to(self._device)
            conditions = torch.split(conditioning(self._unet, stacked), len(wanted))
        result = self._pipeline(
            prompt_embeds=conditions[-1],
            negative_prompt_embeds=conditions[0] if copies == 2 else None,
            height=setting.height,
            width=setting.width,
            num_inference_steps=setting.steps,
            guidance_scale=setting.guidance,
            callback_on_step_end=at_step,
            output_type="latent",
            generator=[torch.Generator("cpu").manual_seed(requests[at].seed) for _, at in wanted],
        )
        pixels = self._decode(result.images)
        return [Sample(name, at, self._picture(p)) for (name, at), p in zip(wanted, pixels, strict=True)]

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        """The pictures of latents, as the pipeline decodes them, but not yet cut to [-1, 1]: [pictures, C, H, W]."""
        vae = self._pipeline.vae
        decoded: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return decoded

    def _picture(self, pixels_CHW: Tensor) -> Image.Image | None:
        """The picture of these pixels in [-1, 1]; None where not all are finite, which would show as black or white."""
        if not pixels_CHW.isfinite().all():
            return None
        picture: Image.Image = self._pipeline.image_processor.postprocess(pixels_CHW[None], output_type="pil")[0]
        return picture


def _embeddings(
    model: LocalModel, texts: Collection[str], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The embedding of each text, [L, D], on the CPU."""
    tokenizer, encoder = stable_diffusion.load_text_encoder(model, dtype)
    different = sorted(set(texts))
    return dict(zip(different, encode_texts(tokenizer, encoder, different, device, model.use.clip_skip), strict=True))
