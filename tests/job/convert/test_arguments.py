"""Every argument that the trainers know is taken, or spoken of."""

import re
from pathlib import Path

import pytest

from job.convert.convert import convert
from job.convert.settings import ConversionError
from job.manifest.explain import _section_at
from job.manifest.foreign import FATES, fate_of
from job.manifest.schema import Manifest, VariantConfig
from lora_engine.config.captions import ConstantCaptions, ExistingCaptions

# What values the arguments have that cannot have any.
_VALUES = {
    "pretrained_model_name_or_path": "a/b",
    "mixed_precision": "fp16",
    "optimizer_type": "Lion",
    "lr_scheduler": "cosine_with_restarts",
    "optimizer_args": "x=1",
    "network_args": "conv_dim=4",
    "caption_extension": ".cap",
    "sample_prompts": "here.txt",
    "network_module": "lycoris.kohya",
    "config_file": "here",
    "dataset_config": "here.toml",
    "caption_dropout_rate": "0.2",
    "validation_split": "0.2",
    "adam_weight_decay": "0.2",
    "adam_beta1": "0.7",
    "adam_beta2": "0.7",
    "learning_rate": "0.01",
    "unet_lr": "0.01",
    "resolution": "128",
    "noise_offset": "0.2",
    "ip_noise_gamma": "0.2",
    "network_dropout": "0.2",
    "lora_dropout": "0.2",
    "text_encoder_lr": "0.02",
}
_FLAGS = {
    "random_flip",
    "flip_aug",
    "scale_lr",
    "use_8bit_adam",
    "use_lion_optimizer",
    "v_parameterization",
    "zero_terminal_snr",
    "debiased_estimation_loss",
    "scale_v_pred_loss_like_noise_pred",
    "network_train_unet_only",
    "train_text_encoder",
}
_REFUSED = {
    "network_train_text_encoder_only": "found true; allowed: false, since adapters here have layers of the UNet"
}


def arguments(script: str) -> list[str]:
    """The names in a section of the list."""
    text = (Path(__file__).parent / "files" / "arguments.txt").read_text()
    sections = re.split(r"^\[(.*)\]$", text, flags=re.M)
    return sections[sections.index(script) + 1].split()


@pytest.mark.parametrize("script", ["train_network.py", "train_text_to_image_lora.py", "train_dreambooth_lora.py"])
def test_every_argument_is_taken_or_spoken_of(script: str) -> None:
    names = arguments(script)
    assert len(names) > 40
    command = f"{script} --pretrained_model_name_or_path=a/b --train_data_dir=img --max_train_steps=70"
    plain = convert(command.encode(), "a.sh")
    for name in names:
        if name in _REFUSED:
            with pytest.raises(ConversionError, match=_REFUSED[name]):
                convert(f"{command} --{name}".encode(), "a.sh")
            continue
        option = f"--{name}" if name in _FLAGS else f"--{name}={_VALUES.get(name, '3')}"
        changed = convert(f"{command} {option}".encode(), "a.sh")
        is_said = any(re.search(rf"\b{name}\b", remark) for remark in changed.remarks)
        is_taken = _data(plain.manifest) != _data(changed.manifest)
        assert is_said or is_taken or name in command, name
        assert not any("not known" in remark for remark in changed.remarks), name


def _data(manifest: str) -> list[str]:
    return [line for line in manifest.split("\n") if not line.startswith("#")]


@pytest.mark.parametrize("kind", ["train_network.py", "dataset", "gui", "train_text_to_image_lora.py"])
def test_every_setting_has_a_fate(kind: str) -> None:
    assert [name for name in arguments(kind) if fate_of(name) is None] == []


def keys_at(*path: str) -> set[str]:
    """The keys that a section of a manifest may have, whatever is chosen in it."""
    models = _section_at(Manifest, path).members
    return {field.alias or key for model in models for key, field in model.model_fields.items()}


def test_settings_become_keys_that_there_are() -> None:
    for name, fate in FATES.items():
        assert (fate.becomes == "key") == bool(fate.key)
        assert fate.key or fate.why, name
        *above, last = fate.key.split(".") if fate.key else [""]
        if above[:1] == ["variants"]:
            assert above == ["variants", "NAME", "captions"]
            assert last in ConstantCaptions.model_fields | ExistingCaptions.model_fields
        elif last:
            assert last in keys_at(*above), fate.key


def test_what_is_not_taken_has_no_key_of_its_name() -> None:
    """A key that is added under another trainer's name is to be taken from its configurations."""
    keys = keys_at() | set(VariantConfig.model_fields)
    keys |= {key for part in ("preprocess", "lora", "training", "evaluation", "dataset") for key in keys_at(part)}
    for part in ("optimizer", "schedule", "loss", "weighting", "noise", "timesteps", "ema"):
        keys |= keys_at("training", part)
    assert {name for name, fate in FATES.items() if fate.becomes == "nothing"} & keys == set()
