"""Draws a few images with every final adapter of a pack."""

import io
from pathlib import Path

import torch

from job import layout
from job.context import Job
from job.variants import Pack
from lora_engine import adapters, sampling
from lora_engine.config.training import SamplesConfig


def sample(job: Job, pack: Pack, model: Path, unet: torch.nn.Module, device: torch.device) -> None:
    """Write the pack's sample images, those that are not there yet."""
    config = job.manifest.evaluation.samples
    if config is None:
        return
    step, missing = pack.training.steps, []
    for member in pack.members:
        keys = {
            (p, s): layout.sample(member.variant, member.seed, step, p, s)
            for p in range(len(config.prompts))
            for s in config.seeds
        }
        if not all(job.run.exists(key) for key in keys.values()):
            missing.append((member, keys))
    if not missing:
        return
    pipeline = sampling.load_pipeline(model, unet, device)
    with job.progress.stage("sample", total=len(missing) * _count(config), unit="images") as stage:
        for member, keys in missing:
            adapters.activate(unet, [member.adapter_name])
            for prompt, seed, image in sampling.draw_samples(pipeline, config, job.manifest.preprocess.resolution):
                data = io.BytesIO()
                image.save(data, "PNG")
                job.run.write(keys[prompt, seed], data.getvalue())
                stage.advance(1)
                job.stop.check()


def _count(config: SamplesConfig) -> int:
    return len(config.prompts) * len(config.seeds)
