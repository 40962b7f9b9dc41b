"""What the LoRA files that variants start from decide of these."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from job.manifest.packs import resolve_variants
from job.manifest.schema import START, Manifest
from lora_engine.adapters.lora_file import read_once
from lora_engine.adapters.start import require_alike, settings_in
from lora_engine.adapters.targets import matching_modules
from lora_engine.config.adapter import LoraConfig
from lora_engine.models.files import LocalModel
from lora_engine.models.loading import empty_part
from lora_engine.models.merge import layer_shapes, require_fitting


def read_starts(manifest: Manifest, paths: Mapping[str, Path], base: LocalModel) -> dict[str, dict[str, Any]]:
    """The settings of `lora` that files decide, by the names of the variants that start from these.

    Args:
        paths: the files, by the names of variants; those that are not there are left out.
        base: the base model, of which the configurations are read.

    Raises:
        ModelError: a file is no LoRA of the base model, or the manifest says something else than it does.
    """
    if not paths:
        return {}
    unet = empty_part(base.path / "unet", "unet")
    shapes = layer_shapes(base)

    def targets(config: LoraConfig) -> Collection[str]:
        return matching_modules(unet, config).keys()

    for file in dict.fromkeys(paths.values()):
        require_fitting(file, shapes, START)
    read = {}
    for variant in resolve_variants(manifest):
        if (path := paths.get(variant.name)) is not None:
            read[variant.name] = settings_in(read_once(path), variant.lora, targets, path.name)
    for variant in resolve_variants(manifest, starts=read):
        if (path := paths.get(variant.name)) is not None:
            require_alike(read_once(path), variant.lora, targets, path.name)
    return read
