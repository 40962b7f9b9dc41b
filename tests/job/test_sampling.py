"""`lora-job sample`: a set of samples of its own, of a finished run here or in S3, and of one adapter's file."""

import hashlib
import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from job.storage.folder import RunFolder
from tests.job.small_run import VANILLA, arguments, folder_of
from tests.lora_job import lora_job, start, stop_at
from tests.s3_server import S3Server

HINTED = "{name: blip, captions: {strategy: blip, style_hints: line art}}"
NEAR = 1  # of 255, on the average, of what differs by how sums are rounded, perhaps in bf16
PROMPTS = """\
# two prompts
a heart
a sun --d 7 --w 64 --h 96 --s 2
"""


def negative_of(vae: Path, folder: Path) -> Path:
    """A copy of a VAE that draws the negatives of its pictures."""
    shutil.copytree(vae, folder)
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    changed = {name: -tensor for name, tensor in tensors.items() if name.startswith("decoder.conv_out.")}
    save_file(tensors | changed, path)
    return folder


@pytest.fixture(scope="module")
def finished(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two variants, of which one has style hints, with a VAE of its own."""
    folder = tmp_path_factory.mktemp("finished")
    lines = (
        f"base_model.vae={negative_of(miniature / 'sd' / 'vae', folder / 'vae')}",
        f"variants=[{VANILLA}, {HINTED}]",
        *("training.optimizer.learning_rate=0.05", "training.precision=auto"),
        "evaluation.samples={prompts: [a star], steps: 1, guidance: 2, clip: {source: 'miniature://clip'}}",
    )
    done = lora_job("run", *arguments(miniature, folder, *lines), "--workdir", folder / "work")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "small"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run elsewhere."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text(PROMPTS)
    return path


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, but for leases, status, and what a kill left half written."""
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "units" not in path.parts and ".part-" not in path.name
    )
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def drawn(target: Path | str, *options: str | Path, env: Mapping[str, str] | None = None) -> str:
    """The set of samples that a command which succeeds draws."""
    done = lora_job("sample", target, *options, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_checkpoint_and_the_base_model_draw_bare_and_as_trained(run: Path, prompts: Path) -> None:
    before = contents(run)
    folder = Path(drawn(run, "--prompts", prompts))
    assert folder.parent == run / "samples"
    assert folder.name.startswith("prompts-")
    for variant, as_trained in (("vanilla", "a drawing, a heart"), ("blip", "a heart, line art")):
        steps = sorted(path.name for path in (folder / variant / "seed-1337").iterdir())
        assert steps == ["step-000000", "step-000002", "step-000004"]
        for step in steps:
            index = json.loads((folder / variant / "seed-1337" / step / "samples.json").read_text())
            assert [(row["prompt"], row["seed"], row["prompting"]) for row in index["images"]] == [
                (at, seed, prompting) for at, seed in ((0, 0), (1, 7)) for prompting in ("bare", "as_trained")
            ]
            assert index["settings"]["as_trained"][0] == as_trained
            sizes = [size_of(folder / variant / "seed-1337" / step / row["file"]) for row in index["images"]]
            assert sizes == [(64, 64)] * 2 + [(64, 96)] * 2
            # What neither the line nor the command says is as in the run's manifest.
            assert [(each["steps"], each["guidance"]) for each in index["settings"]["settings"]] == [(1, 2), (2, 2)]
    measures = json.loads((folder / "measures.json").read_text())
    assert [member["variant"] for member in measures["members"]] == ["vanilla", "blip"]
    last = measures["members"][0]["samples"][-1]
    assert last["step"] == 4
    assert {"clip_score", "line_art_distance"} <= last["as_trained"]["measures"].keys() & last["bare"]["change"].keys()
    assert [(pair["a"], pair["b"]) for pair in measures["pairs"]] == [("vanilla", "blip")]
    assert size_of(folder / "samples.png")[0] > 260
    assert {key: value for key, value in contents(run).items() if not key.startswith("samples/")} == before


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_the_same_command_draws_nothing_again_and_others_draw_elsewhere(run: Path, prompts: Path) -> None:
    first = drawn(run, "--prompts", prompts, "--best")
    before = contents(run)
    done = lora_job("sample", run, "--prompts", prompts, "--best")
    assert done.stdout.strip() == first
    assert '"stage": "sample"' not in done.stderr
    assert contents(run) == before
    others = [drawn(run, "--prompts", prompts, "--best", *more) for more in (("--seed", "5"), ("--strength", "0.5"))]
    assert len({first, *others}) == 3
    assert contents(run).items() >= before.items()


def test_a_name_that_holds_other_samples_is_refused(run: Path) -> None:
    assert drawn(run, "--prompt", "a heart", "--base", "--name", "mine") == str(run / "samples" / "mine")
    before = contents(run)
    done = lora_job("sample", run, "--prompt", "a sun", "--base", "--name", "mine")
    assert done.returncode == 46
    assert done.stderr.strip().endswith("mine holds other samples. Give these another name: --name NAME.")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("options", "steps"),
    [(("--base",), {0}), (("--best",), {"best"}), (("--base", "--best"), {0, "best"})],
    ids=["base", "best", "both"],
)
def test_the_base_model_or_the_best_checkpoints(run: Path, options: tuple[str, ...], steps: set[int | str]) -> None:
    folder = Path(drawn(run, "--prompt", "a heart", *options))
    for variant in ("vanilla", "blip"):
        best = json.loads((run / "variants" / variant / "seed-1337" / "best.json").read_text())["step"]
        expected = {f"step-{best if step == 'best' else step:06d}" for step in steps}
        assert {path.name for path in (folder / variant / "seed-1337").iterdir()} == expected


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGKILL, "step-000000/samples.json", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "step-000000/samples.json", marks=pytest.mark.slow),
        (signal.SIGKILL, "step-000002/prompt-00-seed-0.png"),
    ],
)
def test_a_set_that_was_interrupted_is_continued(
    run: Path, prompts: Path, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    """What was drawn when the signal came is not drawn again."""
    other = shutil.copytree(run, tmp_path / "other")
    straight = Path(drawn(other, "--prompts", prompts, "--steps", "4"))
    folder = run / "samples" / straight.name
    at = folder / "blip" / "seed-1337" / moment
    code = stop_at(at, start("sample", run, "--prompts", prompts, "--steps", "4"), number)
    assert code == (51 if number == signal.SIGTERM else -9)
    assert not (folder / "measures.json").exists()
    index = folder / "blip" / "seed-1337" / "step-000000" / "samples.json"
    before = index.stat().st_mtime_ns
    assert drawn(run, "--prompts", prompts, "--steps", "4") == str(folder)
    assert index.stat().st_mtime_ns == before
    assert contents(folder) == contents(straight)


def test_pictures_that_an_interrupted_start_left_are_taken_as_they_are(run: Path) -> None:
    """Of a step without an index; one picture is another, so that it can be told."""
    options = ("--prompt", "a heart", "--base", "--name", "mine")
    folder = Path(drawn(run, *options))
    marked = []
    for variant in ("vanilla", "blip"):
        step = folder / variant / "seed-1337" / "step-000000"
        (step / "samples.json").unlink()
        marked.append(step / "prompt-00-seed-0.png")
        Image.new("RGB", (64, 64), "teal").save(marked[-1])
    drawn(run, *options)
    assert [pixels(path)[0, 0].tolist() for path in marked] == [[0, 128, 128]] * 2


def test_a_run_in_s3(run: Path, prompts: Path, s3_admin: S3Server, s3_bucket: str) -> None:
    root = f"s3://{s3_bucket}/sampled/small"
    there = folder_of(root, s3_admin.endpoint_url)
    for path in run.rglob("*"):
        if path.is_file():
            there.upload(path, str(path.relative_to(run)))
    before = etags(there)
    env = {"AWS_ENDPOINT_URL": s3_admin.endpoint_url, "AWS_REGION": "us-east-1"}
    uri = drawn(root, "--prompts", prompts, "--name", "grid", env=env)
    assert uri == f"{root}/samples/grid"
    found = etags(there)
    assert found.items() >= before.items()
    here = Path(drawn(run, "--prompts", prompts, "--name", "grid"))
    for key, data in ((key, there.read(key)) for key in found if key.startswith("samples/")):
        assert data == (run / key).read_bytes(), key
    assert {f"samples/grid/{key}" for key in contents(here)} == {key for key in found if key.startswith("samples/")}


def etags(run: RunFolder) -> dict[str, str]:
    return {key: str(info.etag) for key, info in run.list()}


@pytest.mark.parametrize("kind", ["blip.safetensors", "pytorch_lora_weights.safetensors"])
def test_one_file_draws_what_the_run_s_checkpoint_draws(
    run: Path, finished: Path, miniature: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "file" / "My LoRA.safetensors"
    path.parent.mkdir()
    shutil.copy(run / "variants/blip/seed-1337/checkpoints/step-000004" / kind, path)
    options = ("--prompt", "a heart", "--steps", "2", "--guidance", "3", "--size", "64")
    template = "{prompt}, line art"
    base_model = ("--base-model", miniature / "sd", "--vae", finished.parents[1] / "vae")
    folder = Path(drawn(path, *options, *base_model, "--template", template))
    assert folder.parent == path.parent / "samples"
    of_run = Path(drawn(run, *options))
    for step, twin in (("step-000000", "step-000000"), ("step-000001", "step-000004")):
        for name in ("prompt-00-seed-0.png", "prompt-00-seed-0-as-trained.png"):
            ours = pixels(folder / "my-lora" / "seed-0" / step / name)
            theirs = pixels(of_run / "blip" / "seed-1337" / twin / name)
            assert np.abs(ours - theirs).mean() <= NEAR, (step, name)
    base, adapted = (pixels(folder / "my-lora" / "seed-0" / step / name) for step in ("step-000000", "step-000001"))
    assert np.abs(base - adapted).mean() > 5 * NEAR
    measures = json.loads((folder / "measures.json").read_text())
    (member,) = measures["members"]
    assert member["samples"][1]["bare"]["unmeasured"]["line_art_distance"] == "there are no images to compare with"
    assert measures["likeness"]["reason"] == "there are no training images to compare with"


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=np.int16)


def test_a_file_with_a_text_encoder_draws_with_it(run: Path, miniature: Path, tmp_path: Path) -> None:
    weights = load_file(run / "variants/blip/seed-1337/checkpoints/step-000004/blip.safetensors")
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    text = load_file(miniature / "sd/text_encoder/model.safetensors")
    outputs, inputs = next(weight.shape for key, weight in text.items() if key.endswith("layers.0.mlp.fc1.weight"))
    pictures = []
    for name, scale in (("without", 0.0), ("with", 30.0)):
        path = tmp_path / f"{name}.safetensors"
        generator = torch.Generator().manual_seed(0)
        down, up = (torch.randn(shape, generator=generator) for shape in ((2, inputs), (outputs, 2)))
        save_file(weights | {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": scale * up}, path)
        options = ("--prompt", "a heart", "--steps", "1", "--size", "64", "--base-model", miniature / "sd")
        folder = Path(drawn(path, *options)) / name / "seed-0"
        pictures += [pixels(folder / step / "prompt-00-seed-0.png") for step in ("step-000000", "step-000001")]
    base, without, again, changed = pictures
    assert np.array_equal(base, again)
    assert np.abs(without - base).mean() > 0
    assert np.abs(changed - without).mean() > 0.1


def test_another_file_of_the_same_name_is_another_set(run: Path, miniature: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    options = ("--prompt", "a heart", "--steps", "1", "--base-model", miniature / "sd", "--output", tmp_path / "out")
    sets = []
    for step in ("step-000002", "step-000004"):
        shutil.copy(run / f"variants/blip/seed-1337/checkpoints/{step}/blip.safetensors", path)
        sets.append(drawn(path, *options))
    vae = negative_of(miniature / "sd" / "vae", tmp_path / "vae")
    sets.append(drawn(path, *options, "--vae", vae))
    assert len(set(sets)) == 3
    own, other = (pixels(Path(each) / "mine/seed-0/step-000001/prompt-00-seed-0.png") for each in sets[1:])
    assert np.abs(own + other - 255).mean() <= NEAR  # a negative
    assert Path(sets[0]).parent == tmp_path / "out" / "samples"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "no up weights for text_encoder.text_model."),
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "no down weights for mid_block.attentions.0.proj_in"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "strange.safetensors is a LoHa"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "strange.safetensors is an adapter of SDXL"),
        ("lora_unet_of_another_kind.lora_down.weight", "which is no low-rank weight of a layer"),
    ],
)
def test_a_file_with_weights_that_would_be_left_out_is_refused(
    run: Path, miniature: Path, tmp_path: Path, key: str, says: str
) -> None:
    path = tmp_path / "strange.safetensors"
    weights = load_file(run / "variants/blip/seed-1337/checkpoints/step-000004/blip.safetensors")
    save_file(weights | {key: torch.zeros(4, 4)}, path)
    done = lora_job("sample", path, "--prompt", "a heart", "--steps", "1", "--base-model", miniature / "sd")
    assert done.returncode == 43, done.stderr
    assert says in done.stderr.splitlines()[-1]


def test_a_file_that_is_none_is_refused_before_anything_is_written(miniature: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "x.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"no safetensors")
    done = lora_job("sample", path, "--prompt", "a heart", "--base-model", miniature / "sd")
    assert done.returncode == 43, done.stderr
    assert "x.safetensors is no safetensors file" in done.stderr.splitlines()[-1]
    assert [each.name for each in path.parent.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"down_blocks_0": "down_blocks_7"}, "layers, of which"),
        ({"attn1": "attn9"}, "which is no low-rank weight of a layer"),
        (None, "holds no weights"),
    ],
)
def test_a_file_of_which_the_base_model_would_take_a_part_is_refused(
    run: Path, miniature: Path, tmp_path: Path, changed: dict[str, str] | None, says: str
) -> None:
    path = tmp_path / "other.safetensors"
    weights = load_file(run / "variants/blip/seed-1337/checkpoints/step-000004/blip.safetensors")
    for old, new in (changed or {}).items():
        weights = {key.replace(old, new): value for key, value in weights.items()}
    save_file({} if changed is None else weights, path)
    done = lora_job("sample", path, "--prompt", "a heart", "--steps", "1", "--base-model", miniature / "sd")
    assert done.returncode == 43, done.stderr
    assert says in done.stderr.splitlines()[-1] or "cannot be loaded" in done.stderr.splitlines()[-1]


def test_a_trigger_phrase_that_no_prompt_could_hold_is_left_out(run: Path, miniature: Path, tmp_path: Path) -> None:
    path = tmp_path / "chatty.safetensors"
    weights = load_file(run / "variants/blip/seed-1337/checkpoints/step-000004/blip.safetensors")
    save_file(weights, path, {"modelspec.trigger_phrase": "word " * 1000})
    done = lora_job("sample", path, "--prompt", "a heart", "--steps", "1", "--base-model", miniature / "sd")
    assert done.returncode == 0, done.stderr
    assert "a trigger phrase of 5000 characters, which is left out" in done.stderr


def test_a_manifest_that_is_not_the_run_s_is_refused(run: Path) -> None:
    text = (run / "manifest.yaml").read_text()
    (run / "manifest.yaml").write_text(text.replace("  rank: 8", "  rank: 4"))
    done = lora_job("sample", run, "--prompt", "a heart")
    assert done.returncode == 46, done.stderr
    assert "lora.rank" in done.stderr


def test_a_folder_that_somebody_made_is_left_alone(run: Path) -> None:
    mine = run / "samples" / "mine" / "samples.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    done = lora_job("sample", run, "--prompt", "a heart", "--base", "--name", "mine")
    assert done.returncode == 46, done.stderr
    assert mine.read_bytes() == b"mine"


def test_a_set_that_is_asked_for_in_part_keeps_its_measures(run: Path) -> None:
    folder = Path(drawn(run, "--prompt", "a heart", "--steps", "1"))
    before = (folder / "measures.json").read_bytes()
    assert json.loads(before)["pairs"]
    assert drawn(run, "--prompt", "a heart", "--steps", "1", "--base") == str(folder)
    assert (folder / "measures.json").read_bytes() == before


EMBEDDED = "variants/blip/seed-1337/samples/step-000004/samples.safetensors"


@pytest.mark.parametrize("key", [EMBEDDED, "data/likeness.jsonl", "data/clip"])
def test_what_the_run_did_not_write_there_is_46(run: Path, key: str) -> None:
    path = next((run / key).iterdir()) if key == "data/clip" else run / key
    if key.endswith(".jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    else:
        weights = load_file(path)
        save_file({name: value[..., :-1].contiguous() for name, value in weights.items()}, path)
    done = lora_job("report", run)
    assert done.returncode == 46, done.stderr
    assert path.name in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_has_no_samples_has_a_set(run: Path) -> None:
    """What its own samples would have been compared with is not there, and that is said."""
    text = (run / "manifest.yaml").read_text()
    at = text.index("  samples:\n")
    end = next(at + len(head) for head in [text[at:].split("\nlimits:")[0]])
    (run / "manifest.yaml").write_text(f"{text[:at]}  samples: null{text[end:]}")
    for name in ("line_art.jsonl", "small.safetensors", "likeness.jsonl"):
        (run / "data" / name).unlink()
    folder = Path(drawn(run, "--prompt", "a heart", "--best", "--steps", "1"))
    (member, _) = json.loads((folder / "measures.json").read_text())["members"]
    assert member["samples"][0]["bare"]["unmeasured"]["line_art_distance"] == "there are no images to compare with"


def test_another_base_model_is_refused(run: Path, all_layers: Path) -> None:
    done = lora_job("sample", run, "--prompt", "a heart", "--base-model", all_layers)
    assert done.returncode == 46
    assert "is not the base model that" in done.stderr
    done = lora_job("sample", run, "--prompt", "a heart", "--vae", all_layers)
    assert done.returncode == 46
    assert "is not the VAE that" in done.stderr
    assert "--vae SOURCE" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "Give --prompts FILE or --prompt TEXT."),
        (("--prompt", "a", "--prompts", "b"), "Give --prompts FILE or --prompt TEXT."),
        (("--prompt", "a", "--size", "100"), "--size: should be a multiple of 8"),
        (("--prompt", "a", "--size", "big"), "--size: 'big'"),
        (("--prompt", "a", "--sampler", "best"), "--sampler: should be 'ddim'"),
        (("--prompt", "a", "--seed", "1", "--seed", "1"), "seeds holds one twice"),
        (("--prompt", "a", "--name", "A/../B"), "--name: 'A/../B'"),
        (("--prompt", "a", "--name", "study-1"), "--name: 'study-1'"),
        (("--prompt", "a", "--template", "{prompt}"), "--template is not for a run"),
        (("--prompt", "a", "--vae", "~/vae"), "--vae: '~/vae'"),
    ],
)
def test_options_that_do_not_fit_are_2(run: Path, options: tuple[str, ...], says: str) -> None:
    done = lora_job("sample", run, *options)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]


def test_a_device_that_is_not_there_is_44(run: Path) -> None:
    done = lora_job("sample", run, "--prompt", "a heart", "--device", "cuda", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 44, done.stderr
    assert "device is cuda" in done.stderr.splitlines()[-1]


def test_what_is_not_there_is_42(tmp_path: Path) -> None:
    of_file = ("--base-model", "miniature://stable-diffusion")
    for target, options in ((tmp_path / "nothing", ()), (tmp_path / "nothing.safetensors", of_file)):
        done = lora_job("sample", target, "--prompt", "a heart", *options)
        assert done.returncode == 42, done.stderr
        assert f"at {target}." in done.stderr.splitlines()[-1]
    done = lora_job("sample", tmp_path / "nothing.safetensors", "--prompt", "a heart")
    assert done.returncode == 2
    assert "Name it: --base-model SOURCE." in done.stderr
