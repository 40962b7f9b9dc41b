import os
import shutil
import subprocess
import sys
from pathlib import Path

from lora_engine.models.files import LocalModel, model_sha256
from lora_engine.models.stable_diffusion import require_weights
from tests import tiny_captioners
from tests.hub_server import HubServer
from tests.lora_job import ROOT


def test_models_are_baked_with_the_files_that_a_job_reads_and_no_others(miniature: Path, tmp_path: Path) -> None:
    pipeline = shutil.copytree(miniature / "sd", tmp_path / "sd")
    for unwanted in ("v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/weights.bin"):
        (pipeline / unwanted).write_bytes(b"x")
    chat = tiny_captioners.make("qwen2-vl", tmp_path / "chat")
    (chat / "chat_template.json").rename(chat / "chat_template.jinja")
    hub = HubServer({"someone/sd": pipeline, "someone/blip": miniature / "blip", "someone/chat": chat})
    done = subprocess.run(
        [
            sys.executable,
            "scripts/bake_models.py",
            tmp_path / "models",
            "someone/sd@main",
            "hf://someone/blip",
            "someone/chat",
        ],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    hub.stop()
    assert done.returncode == 0, done.stderr
    baked = tmp_path / "models" / "someone"
    require_weights(LocalModel(baked / "sd"))
    assert model_sha256(baked / "sd") == model_sha256(miniature / "sd")
    assert model_sha256(baked / "blip") == model_sha256(miniature / "blip")
    assert model_sha256(baked / "chat") == model_sha256(chat)
    assert (baked / "chat" / "chat_template.jinja").exists()
    assert not [path for path in baked.rglob("*") if path.suffix == ".bin" or path.name == ".cache"]
    assert not {"v1-5-pruned.safetensors", "unet/weights.bin"} & hub.requested
