"""`lora-job export` and `compare`: of runs and of files, by what they leave, print and refuse."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_engine.adapters.lora_file import LoraFile, LoraLayer, read_lora
from lora_engine.adapters.rewritten import write_diffusers, write_kohya
from lora_engine.models.files import model_sha256
from lora_engine.text import printable
from tests.job.report.made_run import Design, around, make_run
from tests.job.small_run import folder_of
from tests.lora_engine.models.test_merged_checkpoint import adapter_for
from tests.lora_files import dense
from tests.lora_job import lora_job
from tests.s3_server import S3Server
from tests.single_file import checkpoint_of

VARIANTS = [
    {"name": "one", "captions": {"strategy": "constant", "text": "a drawing"}},
    {"name": "two", "captions": {"strategy": "existing"}},
]
LEVELS = {"base": {"one": 0.5, "two": 0.5, "": 0.5}, "one": {"one": 0.4, "two": 0.4, "": 0.4}}
STEPS = (2, 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two variants, with checkpoints of two steps."""
    levels = LEVELS | {"two": LEVELS["one"]}
    return make_run(tmp_path_factory.mktemp("run"), Design(VARIANTS, around(levels), (7,))).folder


def checkpoint(run: Path, variant: str, step: int) -> Path:
    return run / f"variants/{variant}/seed-7/checkpoints/step-{step:06d}/{variant}.safetensors"


def exported(target: Path | str, *options: str | Path, cwd: Path, env: dict[str, str] | None = None) -> list[Path]:
    """The paths that a command which succeeds prints."""
    done = lora_job("export", target, *options, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return [cwd / line for line in done.stdout.splitlines()]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] = file.metadata()
        return found


def made_from(path: Path) -> Any:
    return json.loads(metadata(path)["lora_job.made_from"])


def others_may_read(path: Path) -> bool:
    """Whether they may as they may read any new file of that folder."""
    usual = path.with_name("usual")
    usual.touch()
    return path.stat().st_mode == usual.stat().st_mode


def test_the_checkpoint_of_a_run_that_is_meant_with_what_it_was_made_from(finished: Path, tmp_path: Path) -> None:
    best = json.loads((finished / "variants/two/seed-7/best.json").read_text())["step"]
    for options, step in (((), best), (("--last",), STEPS[-1]), (("--step", "2"), 2)):
        folder = tmp_path / "-".join(["of", *options])
        folder.mkdir()
        paths = exported(finished, "--variant", "two", "--format", "both", *options, cwd=folder)
        assert [path.name for path in paths] == [
            f"two-step-{step}.safetensors",
            f"two-step-{step}-diffusers.safetensors",
        ]
        source = checkpoint(finished, "two", step)
        commit = json.loads((source.parent / "COMMIT.json").read_text())
        for path in paths:
            assert others_may_read(path)
            assert made_from(path)["operations"] == []
            assert made_from(path)["sources"] == [
                {
                    "file": "two.safetensors",
                    "sha256": next(e["sha256"] for e in commit["files"] if e["path"] == "two.safetensors"),
                    "run": "small",
                    "variant": "two",
                    "seed": 7,
                    "step": step,
                }
            ]
            for name, layer in read_lora(source).layers.items():
                torch.testing.assert_close(dense(read_lora(path).layers[name]), dense(layer))


def test_an_average_is_that_of_the_updates_but_for_the_error_that_is_said(finished: Path, tmp_path: Path) -> None:
    sources = [read_lora(checkpoint(finished, "one", step)) for step in STEPS]
    for options, rank in (((), 2), (("--resize", "8"), 2), (("--resize", "1"), 1)):
        output = tmp_path / f"{len(options)}-{rank}.safetensors"
        done = lora_job("export", finished, "--variant", "one", "--average", "2,4", *options, "--output", output)
        assert done.returncode == 0, done.stderr
        found, said = read_lora(output), made_from(output)["operations"]
        assert said[0] == {"average": [2, 4]}
        square = 0.0
        for name in sources[0].layers:
            mean = sum((dense(source.layers[name]) for source in sources), torch.tensor(0.0)) / len(sources)
            values = torch.linalg.svdvals(mean)
            error = float((dense(found.layers[name]) - mean).norm())
            assert error == pytest.approx(float(values[rank:].norm()), rel=1e-4)
            assert f"{name}: rank {rank}, leaves out {error:.3g} of {float(values.norm()):.3g}" in done.stderr
            square += error**2
        assert said[1]["error"] == pytest.approx(square**0.5, rel=1e-4)
        assert metadata(output)["ss_network_dim"] == str(rank)


def test_a_file_of_another_rank_strength_and_type(tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    dice = torch.Generator().manual_seed(0)
    layers = {
        "mid_block.attentions.0.proj_in": LoraLayer(
            torch.randn(4, 6, generator=dice), torch.randn(5, 4, generator=dice), 2.0
        ),
        "mid_block.resnets.0.conv1": LoraLayer(
            torch.randn(3, 6, 3, 3, generator=dice), torch.randn(5, 3, 1, 1, generator=dice), 6.0
        ),
    }
    write_kohya(
        source, LoraFile(layers, {"ss_seed": "3", "ss_network_args": '{"x_y": "1"}'}), "source", {}, torch.float32
    )
    [path] = exported(source, "--resize", "3", "--strength", "-0.5", "--dtype", "fp16", cwd=tmp_path)
    assert path.name == "source-rank-3-strength--0.5-fp16.safetensors"
    found, said = read_lora(path), metadata(path)
    assert {key: said.get(key) for key in ("ss_seed", "ss_output_name", "sshs_model_hash", "ss_network_dim")} == {
        "ss_seed": "3",
        "ss_output_name": path.stem,
        "sshs_model_hash": None,
        "ss_network_dim": "3",
    }
    assert json.loads(said["ss_network_args"]) == {"x_y": "1", "conv_dim": "3", "conv_alpha": "6"}
    assert {tensor.dtype for key, tensor in load_file(path).items() if "lora" in key.rsplit(".", 2)[1]} == {
        torch.float16
    }
    for name, layer in layers.items():
        values = torch.linalg.svdvals(dense(layer))
        error = float((dense(found.layers[name]) / -0.5 - dense(layer)).norm())
        assert error == pytest.approx(float(values[3:].norm()), abs=2e-2)
    assert [each["resize"] for each in made_from(path)["operations"] if "resize" in each] == [3]


def pictures(pipeline: StableDiffusionPipeline) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(
        "a heart", width=64, height=64, num_inference_steps=2, guidance_scale=3, output_type="pt",
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    found: Tensor = picture.images
    return found


@pytest.mark.parametrize(("as_one_file", "dora"), [(False, False), (True, False), (False, True)])
def test_a_merged_checkpoint_draws_what_base_and_file_draw(
    all_layers: Path, tmp_path: Path, as_one_file: bool, dora: bool
) -> None:
    lora, source, base = adapter_for(all_layers, dora=dora), tmp_path / "source.safetensors", all_layers
    if dora:  # diffusers drops the norms of kohya's format
        write_diffusers(source, lora, {}, torch.float32)
    else:
        write_kohya(source, lora, "source", {}, torch.float32)
    if as_one_file:
        base = tmp_path / "base.safetensors"
        save_file(checkpoint_of(all_layers), base)
    [path] = exported(source, "--merge", base, "--dtype", "fp32", cwd=tmp_path)
    assert path.name == f"source-fp32-merged{'.safetensors' if as_one_file else ''}"
    told = path if as_one_file else path / "text_encoder/model.safetensors"
    assert others_may_read(told)
    assert made_from(told)["operations"] == [{"merge": {"base": base.name, "sha256": model_sha256(base)}}]
    beside = StableDiffusionPipeline.from_pretrained(all_layers)
    bare = pictures(beside)
    beside.load_lora_weights(tmp_path, weight_name=source.name)
    expected = pictures(beside)
    if as_one_file:
        merged = StableDiffusionPipeline.from_single_file(str(path), config=str(all_layers), safety_checker=None)
    else:
        merged = StableDiffusionPipeline.from_pretrained(path)
    torch.testing.assert_close(pictures(merged), expected, rtol=1e-4, atol=1e-4)
    assert (expected - bare).abs().max() > 1e-2


def test_nothing_that_is_there_is_overwritten(finished: Path, tmp_path: Path) -> None:
    for name in ("one-step-4.safetensors", "one-step-4-diffusers.safetensors"):
        (tmp_path / name).write_text("mine")
        for options in ((), ("--format", "both"), ("--format", "diffusers"), ("--output", name)):
            done = lora_job("export", finished, "--variant", "one", "--last", *options, cwd=tmp_path)
            wrote_another = name not in done.stderr
            assert done.returncode == (0 if wrote_another else 46), done.stderr
            assert (tmp_path / name).read_text() == "mine"
            for other in tmp_path.iterdir():
                if other.name != name:
                    other.unlink()
        (tmp_path / name).unlink()
    assert list(tmp_path.iterdir()) == []


def test_what_is_made_is_as_open_as_other_files_and_its_name_is_shown_as_text(all_layers: Path, tmp_path: Path) -> None:
    name = "a\nb\x1b[31m"
    write_kohya(tmp_path / f"{name}.safetensors", adapter_for(all_layers), name, {}, torch.float32)
    (tmp_path / "usual").touch()
    made = []
    for options, expected in (
        (("--strength", "2"), f"{name}-strength-2.safetensors"),
        (("--merge", all_layers), f"{name}-merged"),
    ):
        done = lora_job("export", tmp_path / f"{name}.safetensors", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{printable(expected)}\n"
        made += [tmp_path / expected, *(tmp_path / expected).rglob("*")]
    assert {path.stat().st_mode for path in made if path.is_file()} == {(tmp_path / "usual").stat().st_mode}


REFUSED = [  # the code, what is said, and the arguments; {run}, {file}, {dora}, {junk}, {other}, {base} are places
    (2, "has several such adapters. Name the variant and seed of one: one/seed-7, two/seed-7", "export {run}"),
    (2, "has no such adapter", "export {run} --variant three"),
    (2, "--variant is not for an adapter's file", "export {file} --variant one"),
    (2, "--average is not for an adapter's file", "export {file} --average 2,4"),
    (2, "--step and --last say which checkpoint is meant", "export {run} --variant one --step 2 --last"),
    (2, "--average: '2'", "export {run} --variant one --average 2"),
    (2, "--average: '2,2'", "export {run} --variant one --average 2,2"),
    (2, "--format is of an adapter", "export {file} --merge {base} --format both"),
    (2, "--format both makes two", "export {file} --format both --output a.safetensors"),
    (2, "--resize: 0", "export {file} --resize 0"),
    (2, "--strength: nan", "export {file} --strength nan"),
    (2, "--output: 's3://bucket/a'", "export {file} --output s3://bucket/a"),
    (2, "names a file, and", "export {file} --merge {base} --output a.safetensors"),
    (2, "--strength: the adapter is DoRA", "export {dora} --strength 0.5"),
    (42, "There is no file at", "export gone.safetensors"),
    (42, "cannot be used: File name too long", f"export {{file}} --output {'x' * 300}.safetensors"),
    (42, "There is no run at", "export gone --variant one"),
    (43, "junk.safetensors is no safetensors file", "export {junk}"),
    (43, "such as up_blocks.9.resnets.0.conv1", "export {other} --merge {base}"),
    (43, "there is no file or folder at", "export {file} --merge gone"),
    (43, "is a pickle", "export {file} --merge gone.ckpt"),
    (43, "is an adapter (LoRA), not a base model", "export {file} --merge {file}"),
    (46, "has no checkpoint of step 3. Name one of step 2, 4", "export {run} --variant one --step 3"),
    (46, "is not as it was committed", "export {run} --variant two --step 2"),
    (42, "There is no file at", "compare {file} gone.safetensors"),
    (43, "junk.safetensors is no safetensors file", "compare {file} {junk}"),
    (43, "has weights for [5, 6] in the one file and for [4, 5] in the other", "compare {file} {run}:one"),
    (2, "has no such adapter", "compare {file} {run}:three"),
    (46, "has no checkpoint of step 9", "compare {file} {run}:one@9"),
]


@pytest.fixture(scope="module")
def places(finished: Path, all_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("places")
    layer = LoraLayer(torch.ones(2, 6), torch.ones(5, 2), 2.0)
    run = Path(shutil.copytree(finished, folder / "run"))
    checkpoint(run, "two", 2).write_bytes(checkpoint(run, "two", 4).read_bytes())
    files = {
        "file": {"mid_block.attentions.0.proj_in": layer},
        "dora": {"mid_block.attentions.0.proj_in": LoraLayer(layer.down, layer.up, 2.0, torch.ones(5))},
        "other": {"up_blocks.9.resnets.0.conv1": layer},
    }
    for name, layers in files.items():
        write_kohya(folder / f"{name}.safetensors", LoraFile(layers, {}), name, {}, torch.float32)
    (folder / "junk.safetensors").write_bytes(b"\xff" * 20)
    return {name: folder / f"{name}.safetensors" for name in (*files, "junk")} | {"run": run, "base": all_layers}


@pytest.mark.parametrize(("code", "said", "line"), REFUSED, ids=[line for _, _, line in REFUSED])
def test_what_cannot_be_made_is_refused_in_a_line(
    places: dict[str, Path], tmp_path: Path, code: int, said: str, line: str
) -> None:
    done = lora_job(*line.format(**places).split(), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_adapters_are_compared_by_block_and_by_what_they_say(finished: Path, tmp_path: Path) -> None:
    a, b = (read_lora(checkpoint(finished, "one", step)) for step in STEPS)
    done = lora_job("compare", f"{finished}:one@2", f"{finished}:one/seed-7@last", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["a"]["step"], found["b"]["step"]) == STEPS
    names = list(a.layers)
    left, right = (torch.cat([dense(file.layers[name]).flatten() for name in names]) for file in (a, b))
    assert found["whole"]["cosine"] == pytest.approx(float(left @ right / left.norm() / right.norm()))
    assert found["whole"]["difference"] == pytest.approx(float((left - right).norm()))
    assert list(found["blocks"]) == ["mid_block", "text_encoder"]
    of_unet, of_text = sorted(names)
    alone = LoraFile({of_unet: a.layers[of_unet]}, {"ss_seed": "\x1b[31m", **a.metadata})
    write_kohya(tmp_path / "alone.safetensors", alone, "alone", {}, torch.float32)
    done = lora_job("compare", f"{finished}:one@2", "alone.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"only in a, 1 layers: {of_text}" in done.stdout
    assert done.stdout.splitlines()[:2] == ["a: small, one, seed 7, step 2", "b: alone.safetensors"]
    assert "\x1b" not in done.stdout
    assert "ss_seed: - | " in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert rows["mid_block"][-1] == "1.0000"
    assert rows["text_encoder"][-1] == "-"


def test_a_run_in_s3_whose_checkpoint_was_altered(
    finished: Path, tmp_path: Path, s3_admin: S3Server, s3_bucket: str
) -> None:
    root = f"s3://{s3_bucket}/exported/small"
    there = folder_of(root, s3_admin.endpoint_url)
    for path in finished.rglob("*"):
        if path.is_file():
            there.upload(path, str(path.relative_to(finished)))
    env = {"AWS_ENDPOINT_URL": s3_admin.endpoint_url, "AWS_REGION": "us-east-1"}
    key = str(checkpoint(finished, "two", 2).relative_to(finished))
    there.upload(checkpoint(finished, "two", 4), key)
    [path] = exported(root, "--variant", "two", "--step", "4", cwd=tmp_path, env=env)
    assert read_lora(path).layers.keys() == read_lora(checkpoint(finished, "two", 4)).layers.keys()
    [path] = exported(f"{root}/{key}", cwd=tmp_path, env=env)
    assert made_from(path)["sources"][0]["file"] == "two.safetensors"
    done = lora_job("export", root, "--variant", "two", "--step", "2", cwd=tmp_path, env=os.environ | env)
    assert done.returncode == 46
    assert "is not as it was committed" in done.stderr
    done = lora_job("compare", f"{root}:two@4", f"{root}:one@last", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
