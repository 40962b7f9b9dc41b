"""How adapters are used: what is shown runs as it is shown, and draws what the run drew."""

import ast
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from job import layout
from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig
from job.report.usage import Usage, usage_of, use_in_a1111, use_in_comfyui, use_in_diffusers, use_in_forge
from job.run.adapters import AdapterEntry, AdapterIndex
from job.run.resolved import Resolved
from lora_engine import miniature
from tests.code_blocks import code_blocks
from tests.job.small_run import drawings, folder_of, quickstart
from tests.job.test_escaping import NASTY
from tests.lora_job import ROOT, lora_job, run_program

DOCUMENT = ROOT / "docs" / "use-your-lora.md"
NEAR = 2  # of 255, of pictures that differ by how sums are rounded
USAGE = Usage(
    name="ink",
    kohya="adapters/ink.safetensors",
    diffusers="adapters/diffusers/ink.safetensors",
    prompt="{prompt}, ink",
    strength=1.0,
    subject="a rose",
    width=384,
    height=512,
    steps=25,
    guidance=7.5,
    negative_prompt="",
    base=BaseModelConfig(source="hf://owner/name"),
    predicts_v=False,
    zero_terminal_snr=False,
    endpoint_url=None,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of the document, `runs/quickstart`, which had few images and steps."""
    folder = tmp_path_factory.mktemp("study")
    values = {
        "training.steps": 4,
        "training.schedule.warmup_steps": 1,
        "evaluation.every": 4,
        "evaluation.samples.prompts": "[a heart]",
        "dataset.source": drawings(folder / "drawings"),
        "dataset.validation_min": 3,
    }
    done = lora_job("run", *quickstart(values, ()), "--workdir", folder / "work", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def of_language(language: str) -> list[str]:
    """The texts of the document's blocks of that language."""
    return [block.text for block in code_blocks(DOCUMENT) if block.language == language]


def usages(run: Path) -> dict[str, Usage]:
    """The usage of each adapter of a run, by name."""
    folder = folder_of(str(run))
    resolved = folder.read_stored(layout.RESOLVED, Resolved)
    index = folder.read_stored(layout.ADAPTER_INDEX, AdapterIndex)
    assert resolved is not None
    assert index is not None
    return {entry.name: usage_of(resolved, entry) for entry in index.adapters}


def run_in(folder: Path, program: str) -> None:
    """Run a Python program, as it is, in a process of its own."""
    done = run_program(program, folder)
    assert done.returncode == 0, done.stderr


def pixels(path: Path) -> npt.NDArray[np.int64]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int64)


def test_what_the_document_shows_runs_and_draws_with_the_adapter(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "runs", tmp_path / "runs")
    for block in of_language("sh"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "lora-job"
            done = lora_job(*arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    [program] = of_language("python")
    run_in(tmp_path / "mine", program)
    drawn = pixels(tmp_path / "mine" / "blip_plus.png")
    step = study / "runs/quickstart" / layout.samples(layout.Member("blip_plus", 1337), 4)
    as_in_the_run = pixels(step / layout.sample_name(0, 0, as_trained=True))
    assert np.abs(drawn - as_in_the_run).max() <= NEAR
    base = StableDiffusionPipeline.from_pretrained(miniature.folder("stable-diffusion"), dtype=torch.float32)
    picture = base(
        "a heart, clean line tattoo, stencil, high contrast",
        width=64,
        height=64,
        num_inference_steps=20,
        guidance_scale=3,
        generator=torch.Generator("cpu").manual_seed(0),
    ).images[0]
    assert np.abs(drawn - np.asarray(picture, np.int64)).max() > NEAR


def test_the_document_lists_files_that_are_there(study: Path) -> None:
    [listing] = of_language("")
    folder, *files = (line.split()[0] for line in listing.splitlines())
    assert len(files) == 3
    assert all((study / folder / file).is_file() for file in files)


def test_the_document_shows_what_a_run_says_of_itself(study: Path) -> None:
    found = usages(study / "runs" / "quickstart")
    assert list(found) == ["vanilla", "blip", "blip_plus"]
    assert of_language("python") == [use_in_diffusers(found["blip_plus"])]
    text = " ".join(DOCUMENT.read_text().split())
    assert all(usage.prompt in text for usage in (found["vanilla"], found["blip_plus"]))
    of_another = replace(found["blip_plus"], base=BaseModelConfig(source="hf://owner/name"))
    for steps in (use_in_a1111(of_another), use_in_forge(of_another), use_in_comfyui(of_another)):
        folder = steps[0].split(" to ")[1].split()[0]
        assert folder in text
        prompt = steps[-1].rpartition(": ")[2]
        assert f"`{prompt}`" in text


@pytest.mark.slow
def test_a_program_runs_in_the_folder_of_its_run(study: Path, tmp_path: Path) -> None:
    """Of every adapter."""
    run = Path(shutil.copytree(study / "runs" / "quickstart", tmp_path / "quickstart"))
    for name, usage in usages(run).items():
        run_in(run, use_in_diffusers(replace(usage, steps=1)))
        assert pixels(run / f"{name}.png").std() > 0


@pytest.mark.parametrize(
    ("base", "call", "note"),
    [
        ({"source": "hf://owner/name"}, 'from_pretrained("owner/name", dtype=dtype)', None),
        (
            {"source": "hf://owner/name", "revision": "v1.5"},
            'from_pretrained("owner/name", revision="v1.5", dtype=dtype)',
            None,
        ),
        ({"source": "/models/sd"}, 'from_pretrained("/models/sd", dtype=dtype)', None),
        ({"source": "file:///models/sd"}, 'from_pretrained("/models/sd", dtype=dtype)', None),
        (
            {"source": "models/sd"},
            'from_pretrained("models/sd", dtype=dtype)',
            "relative to where lora-job was started",
        ),
        (
            {"source": "/m.safetensors", "components": "hf://owner/name"},
            'from_single_file("/m.safetensors", config="owner/name", dtype=dtype)',
            None,
        ),
        (
            {"source": "s3://bucket/my models/sd"},
            'from_pretrained("base_model", dtype=dtype)',
            "First: aws s3 cp --recursive --endpoint-url http://minio:9000 's3://bucket/my models/sd' base_model",
        ),
        (
            {"source": "s3://bucket/m.safetensors", "components": "s3://bucket/sd"},
            'from_single_file("m.safetensors", config="components", dtype=dtype)',
            "First: aws s3 cp --endpoint-url http://minio:9000 s3://bucket/m.safetensors m.safetensors",
        ),
        (
            {"source": "miniature://stable-diffusion"},
            'from_pretrained(str(miniature.folder("stable-diffusion")), dtype=dtype)',
            "comes with lora-job",
        ),
    ],
)
def test_the_base_model_is_loaded_from_where_it_is(base: dict[str, Any], call: str, note: str | None) -> None:
    program = use_in_diffusers(replace(USAGE, base=BaseModelConfig(**base), endpoint_url="http://minio:9000"))
    ast.parse(program)
    assert f"StableDiffusionPipeline.{call}\n" in program
    assert note is None or any(note in line for line in program.splitlines() if "#" in line)


def test_the_base_model_is_used_as_in_training(tmp_path: Path) -> None:
    """A VAE of its own, v down to pure noise, and a layer of the text encoder left out: in a program that runs."""
    sd = miniature.folder("stable-diffusion")
    base = {"source": str(sd), "vae": str(sd / "vae"), "prediction_type": "v_prediction", "clip_skip": 2}
    usage = replace(USAGE, base=BaseModelConfig(**base), predicts_v=True, zero_terminal_snr=True, width=64, height=64)
    program = use_in_diffusers(usage)
    for line in (
        f'pipeline.vae = AutoencoderKL.from_pretrained("{sd / "vae"}", dtype=dtype)',
        'prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"',
        "del text_encoder.encoder.layers[-1:]  # clip skip 2",
    ):
        assert line in program
    lines = [line for line in program.splitlines() if "load_lora" not in line and "set_adapters" not in line]
    run_in(tmp_path, "\n".join(lines).replace("num_inference_steps=25", "num_inference_steps=1"))
    assert (tmp_path / "ink.png").exists()
    for steps in (use_in_a1111(usage), use_in_forge(usage), use_in_comfyui(usage)):
        assert any("clip skip 2 (in ComfyUI, CLIP Set Last Layer -2)" in step for step in steps)
        assert any(f"Choose its VAE, too: {sd / 'vae'} (SD VAE; in ComfyUI, a Load VAE node)." in s for s in steps)
    checkpoint = BaseModelConfig(source="v.safetensors", vae="vae.safetensors", components="hf://owner/name")
    of_hub = use_in_diffusers(
        replace(USAGE, base=BaseModelConfig(source="sd", vae="hf://owner/vae", vae_revision="v1"))
    )
    assert 'AutoencoderKL.from_pretrained("owner/vae", revision="v1", dtype=dtype)' in of_hub
    of_file = use_in_diffusers(replace(USAGE, base=checkpoint, predicts_v=True))
    ast.parse(of_file)
    load = 'from_single_file("vae.safetensors", config="owner/name", subfolder="vae", dtype=dtype)'
    assert f"pipeline.vae = AutoencoderKL.{load}" in of_file
    assert 'clip_sample=False, prediction_type="v_prediction"\n' in of_file


def test_settings_are_those_of_the_samples() -> None:
    program = use_in_diffusers(replace(USAGE, negative_prompt="blurry", strength=0.5))
    for line in (
        "width=384,",
        "height=512,",
        "num_inference_steps=25,",
        "guidance_scale=7.5,",
        'negative_prompt="blurry",',
    ):
        assert f"    {line}\n" in program
    assert 'pipeline.set_adapters("ink", 0.5)' in program
    assert use_in_a1111(replace(USAGE, strength=0.5))[-1].endswith(": a rose, ink <lora:ink:0.5>")
    assert "negative_prompt" not in use_in_diffusers(USAGE)


def entry(name: str) -> AdapterEntry:
    file = {"path": f"adapters/{name}.safetensors", "size": 1, "sha256": "0"}
    return AdapterEntry.model_validate(
        {"name": name, "variant": name, "seed": 1, "step": 1, "rule": "", "reason": "", "prompt": "{prompt}"}
        | {"kohya": file, "diffusers": file}
    )


@pytest.mark.parametrize(
    ("samples", "subject", "size", "steps"),
    [
        (None, "a rose", (64, 64), 25),
        ({"prompts": ["a moth"], "steps": 7}, "a moth", (64, 64), 7),
        ({"prompts": [{"prompt": "a sun", "seed": 1}], "size": [128, 256]}, "a sun", (128, 256), 25),
        ({"size": 128}, "a rose", (128, 128), 25),
    ],
)
def test_the_first_picture_is_one_of_the_runs(
    study: Path, samples: dict[str, Any] | None, subject: str, size: tuple[int, int], steps: int
) -> None:
    resolved = folder_of(str(study / "runs" / "quickstart")).read_json(layout.RESOLVED) or {}
    resolved["manifest"]["evaluation"]["samples"] = samples
    usage = usage_of(Resolved.model_validate(resolved), entry("ink"))
    assert (usage.subject, (usage.width, usage.height), usage.steps) == (subject, size, steps)
    assert usage.base.source == "miniature://stable-diffusion"


def test_a_manifest_of_a_later_version_is_refused(study: Path) -> None:
    resolved = folder_of(str(study / "runs" / "quickstart")).read_json(layout.RESOLVED) or {}
    resolved["manifest"]["base_model"]["flow"] = 3
    with pytest.raises(JobError, match="BaseModelConfig") as caught:
        usage_of(Resolved.model_validate(resolved), entry("ink"))
    assert caught.value.code == ExitCode.CONFLICT


@pytest.mark.parametrize("text", [*NASTY, "both \" and '", "\\", "\\'", '"""', "{prompt}", "#", ""])
def test_texts_from_anywhere_stay_texts(text: str) -> None:
    usage = replace(USAGE, name=text, prompt=f"{{prompt}} {text}", subject=text, negative_prompt=text or "none")
    program = use_in_diffusers(usage)
    assert all(line.isprintable() for line in program.splitlines())
    literals = [node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
    assert {usage.whole_prompt, usage.negative_prompt, f"{text}.png"} <= set(literals)
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    assert len(calls) == len(
        [node for node in ast.walk(ast.parse(use_in_diffusers(USAGE))) if isinstance(node, ast.Call)]
    )
    for steps in (use_in_a1111(usage), use_in_forge(usage), use_in_comfyui(usage)):
        assert all(step.isprintable() for step in steps)


def test_brackets_that_weigh_words_in_a_program_are_escaped_there() -> None:
    usage = replace(USAGE, subject=r"a (bald) [eagle] \o/")
    for steps in (use_in_a1111(usage), use_in_forge(usage)):
        assert steps[-1].endswith(r": a \(bald\) \[eagle\] \\o/, ink <lora:ink:1>")
    assert use_in_comfyui(usage)[-1].endswith(r": a \(bald\) [eagle] \o/, ink")


@pytest.mark.parametrize("source", ["ink.safetensors", "hf://owner/loras/ink.safetensors"])
def test_what_diffusers_merges_otherwise_is_said_once(source: str) -> None:
    merge = [{"source": source, "strength": 0.5}, {"source": "other.safetensors"}]
    base = BaseModelConfig.model_validate({"source": "hf://owner/name", "merge": merge}, strict=False)
    code = use_in_diffusers(replace(USAGE, base=base))
    assert code.count("lora-job export FILE --merge BASE") == 1
    assert "lora-job export" not in use_in_diffusers(USAGE)
