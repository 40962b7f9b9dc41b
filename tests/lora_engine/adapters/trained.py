"""Models with adapters of all kinds, as PEFT computes with them, and the files that hold these."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextModel

from lora_engine.adapters import formats
from lora_engine.adapters.card import AdapterCard
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel

Size = Callable[[str, nn.Module], tuple[int, float] | None]  # the rank and alpha of a layer by its name; None of none

LORA = LoraConfig(rank=3, alpha=5.0)
CARD = AdapterCard(
    name="blip",
    base_model="miniature",
    resolution=64,
    images=9,
    prediction_type="epsilon",
    zero_terminal_snr=False,
    clip_skip=1,
    text_width=768,
    started_at=1_700_000_000.0,
    tag_frequency={"a heart": 2},
    trigger_phrase="",
    lora=LORA,
    training=TrainingConfig(steps=90),
    step=30,
    seed=1337,
)


@dataclass(frozen=True)
class Models:
    """A UNet and its text encoder."""

    unet: nn.Module
    text_encoder: nn.Module

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Of the UNet, and of the text encoder, for fixed inputs."""
        return unet_output(self.unet), text_output(self.text_encoder)


def load_models(folder: Path) -> Models:
    unet = stable_diffusion.load_unet(LocalModel(folder), torch.float32)
    return Models(unet, CLIPTextModel.from_pretrained(folder / "text_encoder").eval())


def unet_output(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    # Of 8 pixels a side one would be left in the middle, and norms over a few values multiply what is rounded.
    latents, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 64, generator=generator)
    with torch.inference_mode():
        return unet(latents, torch.tensor([10, 900]), text).sample


def text_output(text_encoder: Callable[[Tensor], Any]) -> Tensor:
    tokens = torch.arange(2 * 77).reshape(2, 77) % 50
    with torch.inference_mode():
        return text_encoder(tokens)[0]


def is_convolution(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def in_attention(name: str, _: nn.Module) -> tuple[int, float] | None:
    return (3, 5.0) if "attn" in name and name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) else None


def as_kohya(name: str, layer: nn.Module) -> tuple[int, float] | None:
    """Its own default: all of the transformers, of which proj_in and proj_out are convolutions of one pixel."""
    return (4, 1.0) if ".attentions." in name and not is_convolution(layer) else None


def everywhere(name: str, layer: nn.Module) -> tuple[int, float] | None:
    """All layers of the blocks, rank-stabilised, and convolutions of another rank and alpha."""
    if not name.startswith(("down_blocks", "mid_block", "up_blocks")):
        return None
    return (2, 3.0) if is_convolution(layer) else (3, 4.0 * 3**0.5)


def by_block(name: str, layer: nn.Module) -> tuple[int, float] | None:
    """The same, with one block of another rank and alpha, and another of another alpha."""
    others = {"mid_block": (5, 4.0 * 5**0.5), "up_blocks.1": (3, 2.0)}
    return next((size for begin, size in others.items() if name.startswith(begin)), everywhere(name, layer))


@dataclass(frozen=True)
class Kind:
    """Where an adapter is, of what size, and whether it is DoRA."""

    size: Size
    text_encoder: tuple[int, float] | None = None
    dora: bool = False


KINDS = {
    "attention": Kind(in_attention),
    "kohya": Kind(as_kohya, (4, 1.0)),
    "full": Kind(everywhere, (6, 9.0)),
    "by block": Kind(by_block, (6, 9.0)),
    "dora": Kind(by_block, (6, 9.0), dora=True),
}


def alphas_of(adapter: dict[str, Tensor], config: LoraConfig = LORA) -> dict[str, float]:
    """What readers scale by, where all layers are of one size."""
    alpha = config.file_alpha(config.rank, config.alpha)
    return {key.removesuffix(".lora_A.weight"): alpha for key in adapter if key.endswith(".lora_A.weight")}


def adapt(models: Models, kind: Kind, folder: Path) -> None:
    """Give the models an adapter of a kind, with drawn weights, and write its files."""
    sizes = {n: size for n, m in adaptable(models.unet) if (size := kind.size(n, m))}
    adapter = _inject(models.unet, sizes, kind, "")
    alphas = {name: alpha for name, (_, alpha) in sizes.items()}
    if kind.text_encoder:
        text_sizes = {n: kind.text_encoder for n, _ in adaptable(models.text_encoder) if ".layers." in n}
        prefix = "text_encoder." if hasattr(models.text_encoder, "text_model") else "text_encoder.text_model."
        adapter |= _inject(models.text_encoder, text_sizes, kind, prefix)
        alphas |= {f"{prefix}{name}": alpha for name, (_, alpha) in text_sizes.items()}
    formats.write_checkpoint(folder, adapter, alphas, {"step": torch.tensor(1)}, replace(CARD, trigger_phrase="xyz"))


def adaptable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _inject(model: nn.Module, sizes: dict[str, tuple[int, float]], kind: Kind, prefix: str) -> dict[str, Tensor]:
    config = peft.LoraConfig(
        target_modules=list(sizes),
        rank_pattern={f"^{name}": rank for name, (rank, _) in sizes.items()},
        alpha_pattern={f"^{name}": alpha for name, (_, alpha) in sizes.items()},
        use_dora=kind.dora,
    )
    peft.inject_adapter_in_model(config, model, adapter_name="trained")
    generator = torch.Generator().manual_seed(3)
    drawn = {}
    for key, tensor in get_peft_model_state_dict(model, adapter_name="trained").items():
        values = torch.randn(tensor.shape, generator=generator)
        drawn[key] = tensor * (1 + 0.1 * values) if "magnitude" in key else 0.05 * values
    peft.set_peft_model_state_dict(model, drawn, adapter_name="trained")
    return {prefix + key: value.flatten() if "magnitude" in key else value for key, value in drawn.items()}
