"""The check with real models, tried against a hub on this machine that has the miniatures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_engine import miniature
from tests.hub_server import HubServer
from tests.lora_job import ROOT


@pytest.mark.slow
def test_models_of_a_hub_are_loaded_and_trained_on_and_both_files_read_back(tmp_path: Path) -> None:
    hub = HubServer(
        {
            "stable-diffusion-v1-5/stable-diffusion-v1-5": miniature.folder("stable-diffusion"),
            "Salesforce/blip-image-captioning-large": miniature.folder("blip"),
            "openai/clip-vit-base-patch32": miniature.folder("clip"),
        }
    )
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "scripts/check_real.py", tmp_path / "check", "--steps", "2", "--resolution", "64"],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    hub.stop()
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("All of it works.\n")
    assert "The captioner says" in done.stdout
    assert done.stdout.count("its two files differ by") == 3
    assert not [file for file in hub.requested if not file.endswith((".json", ".safetensors", ".txt"))]
