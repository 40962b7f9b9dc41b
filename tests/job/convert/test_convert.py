"""Configurations of other trainers become manifests: what each value becomes, and what is said of the others."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from job.convert.convert import Conversion, convert
from job.convert.settings import ConversionError
from job.manifest.load import load_manifest
from tests.lora_job import lora_job

FILES = Path(__file__).parent / "files"
CONFIGURATIONS = sorted(path for path in FILES.iterdir() if path.name not in ("arguments.txt", "prompts.txt"))
KOHYA = """\
pretrained_model_name_or_path = "models/sd"
train_data_dir = "nowhere"
output_name = "a"
caption_extension = ".txt"
"""


def converted(text: str, name: str = "a.toml") -> tuple[dict[str, Any], str]:
    """The manifest, which is valid, and the remarks."""
    return checked(convert(text.encode(), name))


def checked(conversion: Conversion) -> tuple[dict[str, Any], str]:
    load_manifest(conversion.manifest, "converted")
    comments = [line for line in conversion.manifest.split("\n") if line.startswith("#")]
    said = re.sub(r"\s+", " ", " ".join(comments).replace("#  ", ""))
    assert all(re.sub(r"\s+", " ", remark) in said for remark in conversion.remarks)
    data = yaml.safe_load(conversion.manifest)
    assert isinstance(data, dict)
    return data, "\n".join(conversion.remarks)


def value_at(data: Any, key: str) -> Any:
    """The value of a key with dots; None where there is none."""
    for part in key.split("."):
        data = data[int(part)] if isinstance(data, list) else (data or {}).get(part)
    return data


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder of empty images, with captions for some."""

    def make(name: str, count: int, captions: int = 0, suffix: str = ".txt") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for at in range(count):
            (folder / f"{at}.png").touch()
        for at in range(captions):
            (folder / f"{at}{suffix}").write_text("a heart")
        return folder

    return make


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_realistic_files_become_valid_manifests(path: Path) -> None:
    data, said = checked(convert(path.read_bytes(), str(path)))
    assert data["apiVersion"] == "lora-job/v1"
    assert "not-to-be-shown" not in said
    assert "traceback" not in said.lower()


def test_kohya_toml_with_sections_and_a_dataset() -> None:
    path = FILES / "sections.toml"
    data, said = checked(convert(path.read_bytes(), str(path)))
    assert data["name"] == "ink-style"
    assert data["lora"] == {
        "rank": 16,
        "alpha": 8,
        "target_modules": "kohya",
        "text_encoder": {"learning_rate": 0.0001},
    }
    training = data["training"]
    assert training["optimizer"] == {
        "name": "adamw",
        "learning_rate": 0.0005,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.99,
    }
    assert training["batch_size"] == 2  # the dataset's goes before the command line's
    assert training["max_grad_norm"] is None
    assert training["random_flip"] is True
    assert data["dataset"]["source"] == "img"
    assert data["variants"][0]["captions"] == {"strategy": "existing", "missing": "sks ink"}
    assert [prompt["prompt"] for prompt in data["evaluation"]["samples"]["prompts"]] == [
        "sks ink, a lighthouse",
        "sks ink, a fox",
    ]
    assert data["base_model"]["clip_skip"] == 2
    assert training["schedule"] == {"name": "cosine_restarts", "cycles": 3, "warmup_share": 0.1}
    assert training["weighting"] == {"name": "min_snr", "gamma": 5}
    assert training["noise"] == {"offset": 0.1}
    for phrase in ("keep_tokens = 1", "AdamW8bit becomes adamw in single precision"):
        assert phrase in said
    assert training["epochs"] == 10
    assert "Fill in training.epochs: 10 x how often" in said  # 10 times and twice


def test_shell_files_are_read_as_a_shell_would_and_not_run() -> None:
    path = FILES / "kohya.sh"
    data, said = checked(convert(path.read_bytes(), str(path)))
    assert data["base_model"]["source"] == "models/sd.safetensors"
    assert data["output"]["destination"] == "out/ink"
    assert data["training"]["gradient_accumulation"] == 2  # two processes
    assert "logging_dir is logs/$(date" in said
    path = FILES / "diffusers.sh"
    data, said = checked(convert(path.read_bytes(), str(path)))
    assert data["base_model"] == {"source": "hf://CompVis/stable-diffusion-v1-4", "revision": "main"}
    assert data["training"]["precision"] == "fp16"  # of the launcher
    assert data["evaluation"]["samples"]["seeds"] == [0, 1, 2, 3]
    assert "Fill in dataset.source" in said
    assert "lambdalabs/naruto-blip-captions" in said


@pytest.mark.parametrize(
    ("lines", "key", "expected"),
    [
        ("", "lora.rank", 4),
        ("", "lora.alpha", 1),
        ("", "training.optimizer.learning_rate", 2e-6),
        ("", "training.steps", 1600),
        ("", "training.batch_size", 1),
        ("", "training.precision", "fp32"),
        ("", "variants.0.captions.missing", ""),
        ("learning_rate = 1e-4", "training.optimizer.learning_rate", 1e-4),
        ("learning_rate = 1e-4\nunet_lr = 3e-4", "training.optimizer.learning_rate", 3e-4),
        ('unet_lr = "5e-4"', "training.optimizer.learning_rate", 5e-4),
        ('learning_rate = 1.0\noptimizer_type = "Prodigy"', "training.optimizer.learning_rate", 1.0),
        ("max_train_steps = 100\nlr_scheduler = 'cosine'\nlr_warmup_steps = 20", "training.schedule.warmup_steps", 20),
        (
            "max_train_steps = 100\nlr_scheduler = 'cosine'\nlr_warmup_steps = 0.2",
            "training.schedule.warmup_share",
            0.2,
        ),
        ("lr_scheduler = 'constant'\nlr_warmup_steps = 20", "training.schedule.warmup_steps", 0),
        ("lr_scheduler = 'constant_with_warmup'\nlr_warmup_steps = 20", "training.schedule.warmup_steps", 20),
        ("lr_scheduler = 'polynomial'", "training.schedule.name", "linear"),
        ("max_grad_norm = 0", "training.max_grad_norm", None),
        ("max_grad_norm = 0.5", "training.max_grad_norm", 0.5),
        ("mixed_precision = 'bf16'", "training.precision", "bf16"),
        ("mixed_precision = 'fp8'", "training.precision", None),
        ("resolution = '384,512'", "preprocess.resolution", 384),
        ("resolution = 384", "preprocess.resolution", 384),
        ("resolution = [384, 384]", "preprocess.resolution", 384),
        ("resolution = 510", "preprocess.resolution", 504),
        ("flip_aug = true", "training.random_flip", True),
        ("seed = 7", "seeds", [7]),
        ("validation_split = 0.2", "dataset.validation_fraction", 0.2),
        ("caption_dropout_rate = 0.1", "variants.0.captions.caption_dropout", 0.1),
        ("caption_prefix = 'sks'", "variants.0.captions.trigger", "sks"),
        ("caption_suffix = 'line art'", "variants.0.captions.style_hints", "line art"),
        ("save_every_n_steps = 50", "evaluation.every", 50),
        ("save_last_n_epochs = 2", "output.keep_checkpoints", 2),
        ("save_last_n_epochs = 1", "output.keep_checkpoints", None),
        ('metadata_license = "CC0-1.0"', "output.license", "CC0-1.0"),
        ('metadata_description = "Line art."', "output.description", "Line art."),
        ("output_dir = 'out'", "output.destination", "out"),
        ("metadata_license = 'CC-BY-4.0'", "output.license", "CC-BY-4.0"),
        ("metadata_description = 'ink'", "output.description", "ink"),
        ("clip_skip = 2", "base_model.clip_skip", 2),
        ("clip_skip = 1", "base_model.clip_skip", None),
        ("v_parameterization = true", "base_model.prediction_type", "v_prediction"),
        ("v_parameterization = false", "base_model.prediction_type", None),
        ("v_parameterization = true\nzero_terminal_snr = true", "base_model.zero_terminal_snr", True),
        ("zero_terminal_snr = true", "base_model.zero_terminal_snr", None),
        ("vae = 'stabilityai/sd-vae-ft-mse'", "base_model.vae", "hf://stabilityai/sd-vae-ft-mse"),
        ("vae = 'vae.safetensors'", "base_model.vae", "vae.safetensors"),
        ("vae = 'vae.pt'", "base_model.vae", None),
        ("base_weights = ['a.safetensors', 'b.safetensors']", "base_model.merge.1.source", "b.safetensors"),
        (
            "base_weights = ['a.safetensors', 'b.safetensors']\nbase_weights_multiplier = [0.5]",
            "base_model.merge.0.strength",
            0.5,
        ),
        ("base_weights = ['a.ckpt']", "base_model.merge", None),
        ("network_weights = 'a.safetensors'", "lora.init_from", "a.safetensors"),
        ("network_weights = 'a.safetensors'\nnetwork_dim = 8", "lora.rank", None),
        ("network_weights = 'a.pt'", "lora.init_from", None),
        ("v2 = true", "lora.target_modules", "kohya"),
        ("network_module = 'lycoris.kohya'\nnetwork_dim = 100000", "lora.rank", None),
        ("network_module = 'lycoris.kohya'\nnetwork_dim = 32", "lora.rank", 32),
    ],
)
def test_values_of_sd_scripts(lines: str, key: str, expected: Any) -> None:
    data, _ = converted(KOHYA + lines)
    assert value_at(data, key) == expected


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ("", "lora.rank", 4),
        ("", "lora.alpha", 4),
        ("--rank 16", "lora.alpha", 16),
        ("--max_train_steps 9", "training.steps", 9),
        ("--max_train_steps 9 --num_train_epochs 4", "training.steps", 9),
        ("", "training.batch_size", 16),
        ("", "training.optimizer.learning_rate", 1e-4),
        ("", "training.precision", None),
        ("", "training.schedule.warmup_steps", 0),  # a constant schedule has none, whatever the default
        ("--lr_scheduler cosine", "training.schedule.warmup_steps", 500),
        ("--lr_scheduler cosine_with_restarts", "training.schedule.name", "cosine"),
        ("--scale_lr --train_batch_size 2 --gradient_accumulation_steps 3", "training.optimizer.learning_rate", 6e-4),
        ("--adam_beta1 0.8 --adam_epsilon=1e-6", "training.optimizer.epsilon", 1e-6),
        ("", "evaluation.every", 500),
        ("--checkpointing_steps 40", "evaluation.every", 40),
        ("--checkpoints_total_limit=3", "output.keep_checkpoints", 3),
        ("", "evaluation.samples", None),
        ("--validation_prompt 'a \"b\" $c' --num_validation_images 2", "evaluation.samples.seeds", [0, 1]),
        ("", "variants.0.captions", {"strategy": "existing"}),
    ],
)
def test_values_of_diffusers(options: str, key: str, expected: Any) -> None:
    command = f"python train_text_to_image_lora.py --pretrained_model_name_or_path a/b --train_data_dir d {options}"
    data, _ = converted(command, "train.sh")
    assert value_at(data, key) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("models/sd.safetensors", "models/sd.safetensors"),
        ("someone/model", "hf://someone/model"),
        ("/models/sd", "/models/sd"),
        ("runwayml/stable-diffusion-v1-5", "hf://stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ],
)
def test_models_are_named_as_here(model: str, source: str) -> None:
    data, said = converted(f'pretrained_model_name_or_path = "{model}"')
    assert data["base_model"]["source"] == source
    assert "Fill in base_model" not in said


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('pretrained_model_name_or_path = "sd.ckpt"', "pickles are not read"),
        ('pretrained_model_name_or_path = "https://a.b/sd.safetensors"', "not downloaded from the web"),
        ('pretrained_model_name_or_path = "D:/sd.safetensors"', "a path of Windows"),
        ('pretrained_model_name_or_path = "a/b"\nsdxl = true', "only SD 1.x and 2.x"),
    ],
)
def test_a_model_that_cannot_be_read_is_to_be_filled_in(lines: str, why: str) -> None:
    data, said = converted(lines)
    assert data["base_model"]["source"].startswith("hf://")
    assert "Fill in base_model.source" in said
    assert why in said


def test_epochs_become_steps(images: Callable[..., Path]) -> None:
    folder = images("img/10_sks dog", 7, captions=7).parent
    shutil.copytree(folder / "10_sks dog", folder / "3_drawing")
    (folder / "ignored").mkdir()
    lines = (
        f'train_data_dir = "{folder}"\nmax_train_epochs = 2\ntrain_batch_size = 4\ngradient_accumulation_steps = 3\n'
    )
    data, said = converted(lines + 'caption_extension = ".txt"\nsave_every_n_epochs = 1')
    assert data["training"]["steps"] == 2 * 8  # 7 x 13 images, 12 of an update
    assert data["evaluation"]["every"] == 8
    assert "Fill in training" not in said
    assert "different repeats" in said
    assert data["variants"][0]["captions"] == {"strategy": "existing", "missing": "sks dog"}
    assert 'not "drawing"' in said
    data, _ = converted(lines + "validation_split = 0.4")
    assert data["training"]["steps"] == 2 * 6  # 5 x 13 images


def test_epochs_stay_where_no_images_are_here(tmp_path: Path) -> None:
    command = "train_text_to_image_lora.py --pretrained_model_name_or_path a/b --dataset_name x --num_train_epochs 7"
    data, said = converted(command, "go.sh")
    assert data["training"]["epochs"] == 7
    assert "steps" not in data["training"]
    assert "Fill in training" not in said
    (tmp_path / "d.toml").write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "nowhere"\nnum_repeats = 3\n')
    data, said = converted('max_train_epochs = 7\ndataset_config = "d.toml"', str(tmp_path / "a.toml"))
    assert data["training"]["epochs"] == 7 * 3
    assert "Fill in training" not in said


def test_the_gui_rounds_epochs_once(images: Callable[..., Path]) -> None:
    folder = images("img/1_dog", 25).parent
    data, _ = converted(
        f'''{{"LoRA_type": "Standard", "train_data_dir": "{folder}", "epoch": 10, "train_batch_size": 4,
        "lr_scheduler": "cosine", "lr_warmup": "10"}}''',
        "gui.json",
    )
    assert data["training"]["steps"] == 63  # 250 images, 4 of an update
    assert data["training"]["schedule"]["warmup_share"] == 0.1


def test_images_without_captions_have_a_constant_one(images: Callable[..., Path]) -> None:
    folder = images("img/1_sks dog", 3).parent
    data, _ = converted(f'train_data_dir = "{folder}"')
    assert data["variants"] == [{"name": "constant", "captions": {"strategy": "constant", "text": "sks dog"}}]


def test_captions_in_other_files_are_spoken_of(images: Callable[..., Path]) -> None:
    folder = images("img/1_sks dog", 3, captions=3, suffix=".caption").parent
    data, said = converted(f'train_data_dir = "{folder}"')
    assert data["variants"][0]["captions"]["strategy"] == "existing"
    assert "rename those beside the images" not in said
    _, said = converted(f'train_data_dir = "{folder}"\ncaption_extension = ".cap"')
    assert "rename those beside the images" in said


def test_folders_side_by_side_are_one_source_unless_pictures_of_a_class_are_among_them() -> None:
    subset = '[[datasets.subsets]]\nimage_dir = "img/{}"\n'
    text = "[[datasets]]\n" + subset.format("a") + subset.format("b")
    assert converted(text)[0]["dataset"]["source"] == "img"
    data, said = converted(text + subset.format("c") + "is_reg = true")
    assert data["dataset"]["source"] == "img/a"
    assert 'the images of "img/b"' in said


def test_a_config_file_and_its_dataset_are_followed(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('network_dim = 8\nseed = 3\ndataset_config = "d.toml"')
    (tmp_path / "d.toml").write_text('[[datasets]]\nresolution = 256\n[[datasets.subsets]]\nimage_dir = "x"')
    command = "accelerate launch train_network.py --config_file c --seed 4 --sample_prompts=none.txt"
    data, said = converted(command, str(tmp_path / "go.sh"))
    assert (data["lora"]["rank"], data["seeds"], data["preprocess"]["resolution"]) == (8, [4], 256)
    assert data["dataset"]["source"] == "x"
    assert "no samples are drawn: no such file is here" in said
    _, said = converted(command.replace("config_file c", "dataset_config e.toml"), str(tmp_path / "go.sh"))
    assert "'e.toml' is not here" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A='b c'\ntrain_network.py --output_dir \"$A/d\"", "b c/d"),
        ("A=b; B=${A}c && train_network.py --output_dir=$B-d | tee log", "bc-d"),
        ('A=\'"\'\ntrain_network.py --output_dir "$A"', '"'),
        ("A=b\ntrain_network.py --output_dir '$A'", "$A"),
        ("A=b\ntrain_network.py --output_dir \\\n  x\\ y # --output_dir z", "x y"),
        ("train_network.py --output_dir 'it''s'", "its"),
        ("train_network.py --output_dir $NOWHERE", "runs"),
        ('train_network.py --output_dir "$(rm -rf /)"', "runs"),
        ("train_network.py --output_dir `date`", "runs"),
        ("train_network.py --output_dir a --output_dir b", "b"),
        ("train_network.py \\\r\n --output_dir a\r\n", "a"),
    ],
)
def test_shell_text(text: str, expected: str) -> None:
    data, _ = converted(text, "train.sh")
    assert data["output"]["destination"] == expected


@pytest.mark.parametrize(
    ("name", "text", "phrase"),
    [
        ("a.toml", "[project]\nname = 'x'", "TOML with name"),
        ("a.toml", "", "TOML with no keys"),
        ("a.toml", "network_dim = 4\nnetwork_dim = 4\nseed = 1", "a.toml:2: found Cannot overwrite a value"),
        ("a.toml", "datasets = [1]", "a dataset that is no table"),
        ("a.toml", "[[datasets]]", "0 subsets"),
        ("a.json", '{"name": 3}', "JSON with name"),
        ("a.json", '{"network_dim": 3', "a.json"),
        ("a.json", '{"network_dim": 3, "network_dim": 4}', "a second time"),
        ("a.json", '{"network_dim": 3, "flux1_checkbox": true}', "flux1_checkbox = true"),
        ("a.sh", "echo hello", "a text that begins with"),
        ("a", "", "an empty file"),
        ("a.sh", "python flux_train_network.py --x", "a call of flux_train_network.py"),
        ("a.sh", "python train_network.py\npython train_network.py", "2 calls of a trainer"),
        ("a.sh", "python train_network.py --x 'a", "no closing quotation"),
        ("a.toml", 'network_dim = "four"', 'a.toml:1: network_dim: found "four"; allowed: a finite number'),
        ("a.toml", "network_dim = 4.5", "a whole number"),
        ("a.toml", "network_dim = 0", "a.toml:1: network_dim: found 0"),
        ("a.toml", "network_dim = 4\nlearning_rate = nan", "a.toml:2: learning_rate"),
        ("a.toml", "network_dim = 4\nlearning_rate = -1.0", "a.toml:2: learning_rate"),
        ("a.toml", "network_dim = 4\ntrain_batch_size = 0", "at least 1"),
        ("a.toml", f"network_dim = {'9' * 400}", "network_dim"),
        ("a.toml", f"network_dim = {'9' * 5000}", "a.toml"),
        ("a.toml", "network_dim = 4\nresolution = [1, 2, 3]", "one or two whole numbers"),
        ("a.toml", "network_dim = 4\ncaption_dropout_rate = 1.0", "caption_dropout_rate: found 1.0"),
        ("a.toml", "network_dim = 4\noutput_dir = 'gs://b'", "output_dir"),
        ("a.toml", "network_dim = 4\ntrain_data_dir = 'a'\noutput_dir = 'a'", "output_dir"),
        ("a.toml", "a" + ".a" * 100_000 + " = 1", "dots"),
        ("a.toml", "network_dim = " + "[" * 100_000, "nesting without end"),
        ("a.sh", "train_network.py\nA=" + "x" * 1000 + "\n" + "A=$A$A\n" * 40, "variables replaced"),
    ],
)
def test_what_is_no_configuration_is_refused(name: str, text: str, phrase: str) -> None:
    with pytest.raises(ConversionError) as caught:
        convert(text.encode(), name)
    message = str(caught.value)
    assert caught.value.code == 40
    assert phrase in message
    assert all(line.isprintable() for line in message.split("\n"))
    assert len(message) < 20_000


def test_bytes_that_are_no_text_are_refused() -> None:
    for content in (b"\xff\xfe\x00", b"network_dim = 4\0", b"x" * (2**20 + 1)):
        with pytest.raises(ConversionError):
            convert(content, "a.toml")


def test_values_never_leave_their_comment() -> None:
    text = KOHYA + 'text_encoder_lr = "0.1\\nname: evil"\n"evil\\u2028key\\u0085" = 1\n'
    data, said = converted(text)
    assert data["name"] == "a"
    assert "evil" in said


def test_the_command_prints_or_writes(tmp_path: Path) -> None:
    done = lora_job("convert", FILES / "flat.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_manifest(done.stdout, "stdout").training.steps == 2000
    assert "Not taken: random_crop = true" in done.stderr
    assert "not-to-be-shown" not in done.stdout + done.stderr
    to_file = lora_job("convert", FILES / "flat.toml", "--output", "m.yaml", cwd=tmp_path)
    assert (to_file.returncode, to_file.stdout) == (0, "")
    assert (tmp_path / "m.yaml").read_text() == done.stdout
    (tmp_path / "m.yaml").write_text("mine")
    refused = lora_job("convert", FILES / "flat.toml", "--output", "m.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert (tmp_path / "m.yaml").read_text() == "mine"
    assert lora_job("convert", FILES / "flat.toml", "--output", "m.yaml", "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "m.yaml").read_text() == done.stdout
    assert lora_job("validate", "--offline", "m.yaml", cwd=tmp_path).returncode == 0


def test_the_command_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1")
    for arguments, code in (
        (["a.toml"], 40),
        (["none.toml"], 40),
        ([str(FILES / "flat.toml"), "--output", "no/m.yaml"], 2),
    ):
        done = lora_job("convert", *arguments, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert not done.stdout
