"""What the trainers' settings of adapters, optimizers, schedules, losses, noise and timesteps become."""

import json
import re
from typing import Any

import pytest

from job.convert.settings import ConversionError
from tests.job.convert.test_convert import KOHYA, converted

_COMMAND = "python train_text_to_image_lora.py --pretrained_model_name_or_path a/b --train_data_dir d"
_V = "v_parameterization = true\n"
_LYCORIS = "network_module = 'lycoris.kohya'\nnetwork_args = "
_FULL = {"target_modules": "full"}
_ZERO_SNR = f"{_V}zero_terminal_snr = true\n"


def of_kohya(lines: str) -> tuple[dict[str, Any], str]:
    """The manifest of a configuration of sd-scripts with these lines, and the remarks."""
    return converted(f"{KOHYA}unet_lr = 1e-4\nmax_train_steps = 100\n{lines}")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", {"name": "adamw"}),
        ("optimizer_type = 'torch.optim.AdamW'", {"name": "adamw"}),
        ("optimizer_type = 'Adam'", {"name": "adamw", "weight_decay": 0}),
        ("optimizer_type = 'PagedAdamW32bit'\noptimizer_args = ['eps=1e-7']", {"name": "adamw", "epsilon": 1e-7}),
        ("optimizer_type = 'Lion'", {"name": "lion", "weight_decay": 0}),
        ("use_lion_optimizer = true", {"name": "lion", "weight_decay": 0}),
        (
            "optimizer_type = 'PagedLion8bit'\noptimizer_args = ['weight_decay=0.1', 'betas=(0.95, 0.98)']",
            {"name": "lion", "weight_decay": 0.1, "beta1": 0.95, "beta2": 0.98},
        ),
        ("optimizer_type = 'SGDNesterov'", {"name": "sgd", "nesterov": True}),
        (
            "optimizer_type = 'SGDNesterov8bit'\noptimizer_args = ['momentum=0.8']",
            {"name": "sgd", "nesterov": True, "momentum": 0.8},
        ),
        ("optimizer_type = 'SGD'", {"name": "sgd", "momentum": 0}),
        ("optimizer_type = 'Prodigy'", {"name": "prodigy"}),
        (
            "optimizer_type = 'prodigyopt.Prodigy'\noptimizer_args = 'betas=0.9,0.99 weight_decay=0.01 d_coef=2 "
            "decouple=False use_bias_correction=True safeguard_warmup=True growth_rate=1.02 d0=1e-5 beta3=None'",
            {
                "name": "prodigy",
                "beta1": 0.9,
                "beta2": 0.99,
                "weight_decay": 0.01,
                "d_coef": 2,
                "decouple": False,
                "use_bias_correction": True,
                "safeguard_warmup": True,
                "growth_rate": 1.02,
                "d0": 1e-5,
            },
        ),
        ("optimizer_type = 'DAdaptAdam'\noptimizer_args = ['decouple=True']", {"name": "prodigy"}),
        ("optimizer_type = 'prodigyplus.ProdigyPlusScheduleFree'", {"name": "prodigy"}),
        ("optimizer_type = 'AdamWScheduleFree'", {"name": "schedule_free_adamw", "weight_decay": 0}),
        ("optimizer_type = 'RAdamScheduleFree'", {"name": "schedule_free_adamw"}),
        ("optimizer_type = 'Adafactor'\noptimizer_args = ['relative_step=False']", {"name": "adamw"}),
    ],
)
def test_optimizers(lines: str, expected: dict[str, Any]) -> None:
    data, _ = of_kohya(lines)
    assert data["training"]["optimizer"] == expected | {"learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("lr_scheduler = 'linear'\nlr_warmup_steps = '10%'", {"name": "linear", "warmup_share": 0.1}),
        ("lr_scheduler = 'cosine_with_restarts'", {"name": "cosine"}),
        (
            "lr_scheduler = 'cosine_with_restarts'\nlr_scheduler_num_cycles = 3",
            {"name": "cosine_restarts", "cycles": 3},
        ),
        ("lr_scheduler = 'polynomial'\nlr_scheduler_power = 2.5", {"name": "polynomial", "power": 2.5}),
        ("lr_scheduler = 'inverse_sqrt'\nlr_warmup_steps = 9", {"name": "inverse_sqrt", "warmup_steps": 9}),
        (
            "lr_scheduler = 'inverse_sqrt'\nlr_scheduler_timescale = 50",
            {"name": "inverse_sqrt", "timescale_steps": 50},
        ),
        (
            "lr_scheduler = 'inverse_sqrt'\nlr_scheduler_timescale = 50\nlr_warmup_steps = 9\nnum_processes = 2",
            {"name": "inverse_sqrt", "timescale_steps": 25, "warmup_steps": 5},  # counted once per process
        ),
        (
            "optimizer_type = 'AdamWScheduleFree'\noptimizer_args = ['warmup_steps=10']\nlr_scheduler = 'cosine'",
            {"name": "constant", "warmup_steps": 9},  # the first update of theirs is one of 10 steps up, not of 11
        ),
    ],
)
def test_schedules(lines: str, expected: dict[str, Any]) -> None:
    data, _ = of_kohya(lines)
    assert {"warmup_steps": 0} | expected == {"warmup_steps": 0} | data["training"]["schedule"]


@pytest.mark.parametrize(
    ("lines", "key", "expected"),
    [
        ("loss_type = 'l2'\nhuber_c = 0.2", "loss", None),
        ("loss_type = 'l1'", "loss", {"name": "l1"}),
        ("loss_type = 'huber'", "loss", {"name": "huber", "c": 0.1, "schedule": "snr"}),
        (
            "loss_type = 'huber'\nhuber_c = 0.2\nhuber_schedule = 'constant'\nhuber_scale = 1.5",
            "loss",
            {"name": "huber", "c": 0.3, "schedule": "constant"},
        ),
        ("loss_type = 'smooth_l1'\nhuber_c = 0.2", "loss", {"name": "huber", "c": 0.2, "schedule": "snr"}),
        ("min_snr_gamma = 5", "weighting", {"name": "min_snr", "gamma": 5}),
        ("min_snr_gamma = 0", "weighting", None),
        ("debiased_estimation_loss = true", "weighting", {"name": "debiased"}),
        ("min_snr_gamma = 5\ndebiased_estimation_loss = true", "weighting", {"name": "min_snr", "gamma": 5}),
        (f"{_V}scale_v_pred_loss_like_noise_pred = true", "weighting", {"name": "min_snr", "gamma": 1000}),
        ("noise_offset = 0.05", "noise", {"offset": 0.05}),
        ("multires_noise_iterations = 6", "noise", {"multires": {"iterations": 6}}),
        (
            "multires_noise_iterations = 16\nmultires_noise_discount = 0.4\nip_noise_gamma = 0.1",
            "noise",
            {"multires": {"iterations": 10, "discount": 0.4}, "input_perturbation": 0.1},
        ),
        ("multires_noise_iterations = 6\nnoise_offset = 0.05", "noise", {"offset": 0.05}),
        (f"{_ZERO_SNR}noise_offset = 0.05\nip_noise_gamma = 0.1", "noise", {"input_perturbation": 0.1}),
        ("min_timestep = 200", "timesteps", {"from": 200, "to": 1000}),
        ("max_timestep = 300", "timesteps", {"from": 0, "to": 300}),
        ("min_timestep = 300\nmax_timestep = 300", "timesteps", {"from": 300, "to": 301}),  # sd-scripts draw 300 alone
        ("min_timestep = 0\nmax_timestep = 1000", "timesteps", None),
    ],
)
def test_losses_noise_and_timesteps(lines: str, key: str, expected: Any) -> None:
    data, _ = of_kohya(lines)
    assert data["training"].get(key) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("network_dropout = 0.1", {"dropout": 0.1}),
        ("network_args = ['conv_dim=4', 'conv_alpha=2']", {**_FULL, "conv_rank": 4, "conv_alpha": 2}),
        ("network_args = ['conv_alpha=2']", {}),  # without conv_dim it does nothing
        ("network_module = 'lycoris.kohya'", _FULL),
        (f"{_LYCORIS}['algo=locon', 'conv_dim=4', 'conv_alpha=1']", {**_FULL, "conv_rank": 4, "conv_alpha": 1}),
        (f"{_LYCORIS}['preset=attn-mlp', 'conv_dim=4']", {}),
        (f"{_LYCORIS}['preset=attn-only']", {"target_modules": "attention"}),
        (f"{_LYCORIS}['preset=attn-mlp', 'dora_wd=True']", {"kind": "dora"}),
        (f"{_LYCORIS}['algo=loha', 'conv_dim=4', 'dora_wd=True']", {}),
        ("network_args = ['block_dims=" + ",".join(["4"] * 25) + "']", {}),
        (
            "network_args = ['block_dims=" + ",".join(["4"] * 12 + ["16"] + ["4"] * 12) + "']",
            {"patterns": {"mid_block.attentions": {"rank": 16, "alpha": 1}}},
        ),
        (
            "network_args = ['conv_dim=4', 'conv_block_dims="
            + ",".join(["4"] * 24 + ["8"])
            + "', 'block_dims="
            + ",".join(["4"] * 24 + ["6"])
            + "']",
            {
                **_FULL,
                "conv_rank": 4,
                "conv_alpha": 1,
                "patterns": {
                    "up_blocks.3.resnets.2": {"rank": 8, "alpha": 1},
                    "up_blocks.3.attentions.2": {"rank": 6, "alpha": 1},
                },
            },
        ),
        ("network_dropout = 0", {}),
        (
            f"{_LYCORIS}['rs_lora=True', 'dropout=0.2']",
            {"target_modules": "full", "rank_stabilized": True, "dropout": 0.2},
        ),
        ("network_args = ['loraplus_unet_lr_ratio=16', 'loraplus_lr_ratio=4']", {"plus_ratio": 16}),
        ("network_args = 'loraplus_lr_ratio=4'", {"plus_ratio": 4}),
        ("network_args = ['loraplus_lr_ratio=4']\noptimizer_type = 'Prodigy'", {}),
    ],
)
def test_adapters(lines: str, expected: dict[str, Any]) -> None:
    data, _ = of_kohya(f"network_train_unet_only = true\n{lines}")
    assert data["lora"] == {"rank": 4, "alpha": 1, "target_modules": "kohya"} | expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", {"learning_rate": 2e-6}),  # of learning_rate, which is not the UNet's
        ("learning_rate = 1e-4", {}),
        ("text_encoder_lr = 5e-5", {"learning_rate": 5e-5}),
        ("text_encoder_lr = [5e-5]", {"learning_rate": 5e-5}),
        ("text_encoder_lr = '5e-5'\nlearning_rate = 1e-3", {"learning_rate": 5e-5}),
        ("text_encoder_lr = 1e-4", {}),
        ("text_encoder_lr = 0", None),
        ("learning_rate = 0.0", None),
        ("network_train_unet_only = true\ntext_encoder_lr = 1e-5", None),
        ("learning_rate = 1e-4\noptimizer_type = 'Prodigy'", {}),
        ("text_encoder_lr = 0.5\noptimizer_type = 'Prodigy'", {}),
        ("learning_rate = 1e-4\nstop_text_encoder_training = 50", {"stop_after": 50}),
        ("learning_rate = 1e-4\nstop_text_encoder_training_pct = 30", {"stop_after": 30}),  # of 100 steps
        ("learning_rate = 1e-4\nstop_text_encoder_training = 50\noptimizer_type = 'Prodigy'", {}),
        (f"learning_rate = 1e-4\n{_LYCORIS}['preset=unet-transformer-only']", None),
    ],
)
def test_text_encoders(lines: str, expected: dict[str, Any] | None) -> None:
    data, _ = of_kohya(lines)
    assert data["lora"].get("text_encoder") == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("network_train_text_encoder_only = true", "found true; allowed: false, since adapters here have layers"),
        ("unet_lr = 0.0", "unet_lr: found 0.0; allowed: above 0"),
        ("unet_lr = 1e-4\ntext_encoder_lr = 'fast'", 'text_encoder_lr: found "fast"; allowed: a number'),
        ("unet_lr = 1e-4\ntext_encoder_lr = true", "text_encoder_lr: found true; allowed: texts"),
        ("unet_lr = 1e-4\nnetwork_args = ['conv_dim=1000']", "network_args: found"),
    ],
)
def test_adapters_that_cannot_be_are_refused(line: str, said: str) -> None:
    with pytest.raises(ConversionError, match=re.escape(said)):
        converted(f"{KOHYA}{line}")


def test_the_text_encoder_and_dora_of_diffusers() -> None:
    command = _COMMAND.replace("text_to_image", "dreambooth").replace("train_data_dir", "instance_data_dir")
    data, said = converted(f"{command} --train_text_encoder --use_dora", "train.sh")
    assert data["lora"] == {"rank": 4, "alpha": 4, "kind": "dora", "text_encoder": {}}
    assert "its MLP layers are trained here, too" in said


def test_the_guis_kinds_of_lora() -> None:
    def made(kind: str, **settings: Any) -> dict[str, Any]:
        values = {"LoRA_type": kind, "train_data_dir": "img", "max_train_steps": 40, "conv_dim": 2, "conv_alpha": 3}
        data, _ = converted(json.dumps(values | {"learning_rate": 1e-4} | settings), "gui.json")
        lora: dict[str, Any] = data["lora"]
        return lora

    usual = {"rank": 4, "alpha": 1, "text_encoder": {}}
    with_convolutions = usual | {"target_modules": "full", "conv_rank": 2, "conv_alpha": 3}
    assert made("Standard") == usual | {"target_modules": "kohya"}
    assert made("Kohya LoCon") == with_convolutions
    assert made("LyCORIS/LoCon") == with_convolutions
    assert made("LyCORIS/LoCon", LyCORIS_preset="attn-mlp", dora_wd=True) == usual | {
        "target_modules": "kohya",
        "kind": "dora",
    }
    assert made("LyCORIS/LoHa") == usual | {"target_modules": "kohya"}
    assert made("Standard", stop_text_encoder_training=50)["text_encoder"] == {"stop_after": 20}
    assert made("Standard", block_dims=",".join(["8"] * 12 + ["4"] * 13))["patterns"]["down_blocks.0.attentions.0"] == {
        "rank": 8,
        "alpha": 1,
    }


def test_an_adapter_that_starts_from_a_file_has_its_layers() -> None:
    data, said = of_kohya(
        "network_weights = 'a.safetensors'\nnetwork_args = ['conv_dim=4', 'block_dims=4,4']\nlearning_rate = 1e-4"
    )
    assert data["lora"] == {"init_from": "a.safetensors", "text_encoder": {}}
    assert "Not taken: network_args conv_dim=4 block_dims=4,4: the file that the adapter starts from says it." in said
    data, _ = of_kohya("network_weights = 'a.safetensors'\nnetwork_train_unet_only = true")
    assert data["lora"] == {"init_from": "a.safetensors", "text_encoder": None}


def test_a_start_that_cannot_be_read_leaves_the_layers_as_they_are_written() -> None:
    data, _ = of_kohya("network_weights = 'a.pt'\nnetwork_args = ['conv_dim=4']\nlearning_rate = 1e-4")
    assert (data["lora"]["target_modules"], data["lora"]["conv_rank"]) == ("full", 4)


@pytest.mark.parametrize(("kind", "lost"), [("lora", False), ("loha", True)])
def test_a_plain_lora_by_another_name_is_taken(kind: str, lost: bool) -> None:
    _, remarks = of_kohya(f"network_module = 'lycoris.kohya'\nnetwork_args = ['algo={kind}']")
    assert (f"algo={kind}" in remarks) == lost


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("optimizer_type = 'Lion8bit'", "Lion8bit becomes lion in single precision"),
        ("optimizer_type = 'SGDNesterov'\noptimizer_args = ['weight_decay=0.1']", "sgdnesterov there adds it"),
        ("optimizer_type = 'DAdaptLion'", "prodigy is used instead."),
        ("optimizer_type = 'CAME'", "adamw is used instead, at a rate that may not suit it."),
        ("optimizer_type = 'Prodigy'\noptimizer_args = ['slice_p=11']", "slice_p=11: prodigy has no such settings"),
        ("optimizer_type = 'AdamWScheduleFree'\nlr_scheduler = 'cosine'", 'lr_scheduler = "cosine": sd-scripts give'),
        ("lr_scheduler = 'polynomial'", "ends at a rate of 1e-7 there"),
        ("lr_scheduler = 'warmup_stable_decay'", "the rate is constant"),
        ("loss_type = 'smooth_l1'", "smooth_l1 divided by its c"),
        ("loss_type = 'huber'\nhuber_scale = 2", "with huber_schedule snr it does nothing"),
        ("loss_type = 'huber'\nhuber_schedule = 'exponential'\nhuber_scale = 2", "huber_scale = 2: c falls from 1"),
        ("min_snr_gamma = 5\ndebiased_estimation_loss = true", "debiased_estimation_loss = true: there is one"),
        (f"{_ZERO_SNR}min_snr_gamma = 5", "as they were before zero_terminal_snr"),
        (f"{_ZERO_SNR}noise_offset = 0.1", "noise_offset = 0.1: the last timestep is noise alone"),
        ("multires_noise_iterations = 6", "sd-scripts scale it by the batch's"),
        ("multires_noise_iterations = 6\nnoise_offset = 0.1", "multires_noise_iterations = 6: noise has an offset or"),
        ("noise_offset = 0.1\nadaptive_noise_scale = 0.01", "adaptive_noise_scale = 0.01: the offset of noise is"),
        ("noise_offset = 0.1\nnoise_offset_random_strength = true", "has all of the strength"),
        ("v_pred_like_loss = 0.5", "training.weighting says how much"),
        ("scale_weight_norms = 1", "weights may grow"),
        ("network_args = ['rank_dropout=0.1']", "network_args rank_dropout=0.1: single values"),
        ("network_args = ['loraplus_text_encoder_lr_ratio=2']", "lora.plus_ratio is of all up weights"),
        ("network_train_unet_only = true\ntext_encoder_lr = 1e-5", "text_encoder_lr = 1e-05: network_train_unet_only"),
        ("", "Without text_encoder_lr, sd-scripts train the text encoder at 2e-06."),
        ("optimizer_type = 'Prodigy'\ntext_encoder_lr = 0.5", "text_encoder_lr = 0.5: prodigy finds one learning rate"),
        ("stop_text_encoder_training = 50", "ignores stop_text_encoder_training, which is kept to here"),
        (f"{_LYCORIS}['algo=loha']", "algo=loha: LoHa multiplies two low-rank updates"),
        (f"{_LYCORIS}['algo=loha']", "https://github.com/KohakuBlueleaf/LyCORIS. A plain LoRA is trained."),
        (f"{_LYCORIS}['algo=lokr', 'factor=8']", "algo=lokr: LoKr is a Kronecker product"),
        ("network_module = 'networks.oft'", 'network_module = "networks.oft": OFT rotates the base'),
        ("network_module = 'networks.lora_fa'", "an adapter is a LoRA or a DoRA"),
        (f"{_LYCORIS}['preset=full']", "LyCORIS' preset full trains conv_in, conv_out and time_embedding, too."),
        (f"{_LYCORIS}['preset=mine.toml']", "preset mine.toml: it is none of LyCORIS' own"),
        (f"{_LYCORIS}['preset=unet-only']\ntext_encoder_lr = 1e-5", "LyCORIS' preset trains the UNet alone"),
        ("network_args = ['block_dims=4,0" + ",4" * 23 + "']", "a block of rank 0 is left out there"),
        ("network_args = ['block_dims=4,4']", "block_dims: it has no 25 numbers"),
        ("network_args = ['down_lr_weight=1,0']", "all blocks of the UNet have one learning rate"),
        ("network_args = ['loraplus_lr_ratio=4']\noptimizer_type = 'Prodigy'", "prodigy finds one learning rate"),
    ],
)
def test_what_is_not_taken_or_not_taken_so_is_said(lines: str, said: str) -> None:
    assert said in of_kohya(lines)[1]


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ("--snr_gamma=5 --noise_offset=0.1", "weighting", {"name": "min_snr", "gamma": 5}),
        ("--snr_gamma=5 --noise_offset=0.1", "noise", {"offset": 0.1}),
        (
            "--lr_scheduler=cosine_with_restarts --lr_num_cycles=4 --lr_warmup_steps=0",
            "schedule",
            {"name": "cosine_restarts", "cycles": 4, "warmup_steps": 0},
        ),
        (
            "--lr_scheduler polynomial --lr_power 2 --lr_warmup_steps=7",
            "schedule",
            {"name": "polynomial", "power": 2, "warmup_steps": 7},
        ),
        (
            "--use_8bit_adam --adam_weight_decay=0.1",
            "optimizer",
            {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.1},
        ),
    ],
)
def test_options_of_diffusers(options: str, key: str, expected: dict[str, Any]) -> None:
    data, _ = converted(f"{_COMMAND} {options}", "train.sh")
    assert data["training"][key] == expected


def test_the_dropout_of_diffusers_is_of_other_values() -> None:
    command = _COMMAND.replace("text_to_image", "dreambooth").replace("train_data_dir", "instance_data_dir")
    data, said = converted(f"{command} --lora_dropout=0.1", "train.sh")
    assert data["lora"]["dropout"] == 0.1
    assert "drops what goes into an adapter's layer there" in said


def test_the_gui_has_as_many_restarts_as_epochs_and_passes_no_zeros_on() -> None:
    data, _ = converted(
        """{"LoRA_type": "Standard", "train_data_dir": "img", "max_train_steps": 50, "epoch": 5,
        "lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": "", "noise_offset_type": "Multires",
        "noise_offset": 0.1, "multires_noise_iterations": 8, "multires_noise_discount": 0, "max_timestep": 0,
        "min_snr_gamma": 0, "network_dropout": 0, "loraplus_unet_lr_ratio": 0, "loraplus_lr_ratio": 8}""",
        "gui.json",
    )
    assert data["training"]["schedule"]["cycles"] == 5
    assert data["training"]["noise"] == {"multires": {"iterations": 8}}
    assert {"timesteps", "weighting"} & data["training"].keys() == set()
    assert data["lora"]["plus_ratio"] == 8
    assert "dropout" not in data["lora"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("noise_offset = 2", "noise_offset: found 2; allowed: less than or equal to 1"),
        ("min_snr_gamma = 'x'", 'min_snr_gamma: found "x"; allowed: a finite number'),
        ("loss_type = 'huber'\nhuber_schedule = 'late'", 'huber_schedule: found "late"'),
        ("optimizer_args = ['weight_decay=3']", "optimizer_args: found"),
        ("network_args = ['loraplus_lr_ratio=0.5']", "network_args: found"),
        ("lr_scheduler = 'polynomial'\nlr_scheduler_power = 0", "lr_scheduler_power: found 0"),
        ("lr_warmup_steps = 'x%'", "lr_warmup_steps: found"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_their_names(lines: str, problem: str) -> None:
    with pytest.raises(ConversionError) as refused:
        of_kohya(lines)
    assert problem in str(refused.value)
    assert len(refused.value.problems) == 1
