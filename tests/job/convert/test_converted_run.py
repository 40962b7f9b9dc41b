"""A manifest that was made of a configuration trains an adapter."""

import json
from pathlib import Path

from safetensors import safe_open

from tests.job.small_run import drawings
from tests.lora_job import lora_job


def test_a_converted_manifest_runs(miniature: Path, tmp_path: Path) -> None:
    drawings(tmp_path / "img" / "10_ink drawing")
    (tmp_path / "c.toml").write_text(
        f"""\
pretrained_model_name_or_path = "{miniature / "sd"}"
train_data_dir = "img"
output_dir = "out"
output_name = "mini"
caption_extension = ".txt"
resolution = "64,64"
network_module = "networks.lora"
network_dim = 4
network_alpha = 2
unet_lr = 1e-3
max_train_steps = 3
train_batch_size = 2
optimizer_type = "AdamW8bit"
lr_scheduler = "cosine"
lr_warmup_steps = 1
caption_dropout_rate = 0.1
flip_aug = true
mixed_precision = "bf16"
min_snr_gamma = 5
seed = 3
"""
    )
    converted = lora_job("convert", "c.toml", "--output", "m.yaml", cwd=tmp_path)
    assert converted.returncode == 0, converted.stderr
    done = lora_job("run", "m.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "out/mini/adapters/index.json").read_text())
    assert [entry["step"] for entry in index["adapters"]] == [3]
    with safe_open(tmp_path / "out/mini/adapters/existing.safetensors", "np") as adapter:
        facts = adapter.metadata()
    assert (facts["ss_network_dim"], float(facts["ss_network_alpha"])) == ("4", 2)
