"""Have kohya's own loader read adapters, and compare what the models compute with them with what ours do.

Usage: kohya_reads.py --sd-scripts FOLDER --base FOLDER FILE...

The loader is the module that a file names itself, `networks.lora` of sd-scripts or, of DoRA, `lycoris.kohya` of the
package lycoris-lora: a clone of sd-scripts has to be there, and the packages that it imports. BASE is the base model in
diffusers layout, FILE an adapter in kohya's format. It ends with 0 where every module of each file is found, and the
outputs of UNet and text encoder are the same.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_engine.adapters import from_file
from lora_engine.adapters.lora_file import read_lora, read_metadata
from lora_engine.models.adapted import load_unet_for
from lora_engine.models.conditioning import attach, conditioning
from lora_engine.models.files import LocalModel


def main() -> None:
    """Read every file, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--sd-scripts", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(options.sd_scripts))
    failed = [path.name for path in options.files if not reads_alike(path, options.base)]
    sys.exit(f"Read otherwise: {', '.join(failed)}" if failed else 0)


def reads_alike(path: Path, base: Path) -> bool:
    """Whether kohya's loader finds all of a file's modules, and computes with them as ours does."""
    plain, ours, theirs = load(base), load(base), load(base)
    from_file.load_file(ours, path, "ours")
    from_file.activate(ours, ["ours"])
    name = read_metadata(path)["ss_network_module"]
    found = apply(importlib.import_module(name), path, theirs)
    wanted = len(read_lora(path).layers)
    same = found == wanted
    print(f"{path.name}: {name} finds {found} of {wanted} modules", end="")
    for what, own, other, base_output in zip(
        ("the UNet", "the text encoder"), outputs(ours), outputs(theirs), outputs(plain), strict=True
    ):
        change, difference = ((own - each).abs().max().item() for each in (base_output, other))
        print(f"; of {what} it changes the output by {change:.2e}, and differs from ours by {difference:.2e}", end="")
        same &= difference <= 1e-4 * max(1.0, own.abs().max().item())
    print()
    return same


def load(base: Path) -> nn.Module:
    """The UNet with its text encoder as a part of it."""
    return load_unet_for(LocalModel(base), torch.float32, torch.device("cpu"), with_text_encoder=True)


def apply(loader: Any, path: Path, unet: nn.Module) -> int:
    """Have the loader put a file's modules into the models; give the number of those that it loaded weights for."""
    text_encoder = unet.text_encoder
    del unet.text_encoder  # so that its layers are not taken for the UNet's
    if hasattr(loader, "LycorisNetworkKohya"):
        # LyCORIS makes a network of its defaults first, which name layers of diffusers' UNet twice.
        loader.LycorisNetworkKohya.UNET_TARGET_REPLACE_NAME = []
    network, _ = loader.create_network_from_weights(1.0, str(path), None, text_encoder, unet)
    network.apply_to(text_encoder, unet, apply_text_encoder=True, apply_unet=True)
    missing = network.load_weights(str(path))
    print(f"{path.name}: {missing}")
    network.eval()
    attach(unet, text_encoder)
    unet.network = [network]  # in a list, since it is no part of the UNet
    return len(network.unet_loras) + len(network.text_encoder_loras)


@torch.inference_mode()
def outputs(unet: nn.Module) -> tuple[Tensor, Tensor]:
    """The outputs for fixed inputs, of the UNet and of the text encoder."""
    generator = torch.Generator().manual_seed(0)
    text = conditioning(unet, torch.arange(2 * 77).reshape(2, 77) % 40)
    latents = torch.randn(2, 4, 32, 32, generator=generator)
    states = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    return unet(latents, torch.tensor([10, 900]), states).sample, text


if __name__ == "__main__":
    main()
