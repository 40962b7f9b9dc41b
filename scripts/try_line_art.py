"""Run the study on real line art from a zip in a real S3 store on this machine, with the miniature models.

Usage: try_line_art.py LINE_ART.zip OUT [--steps 200]. Make the zip with fetch_line_art.py.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lora_engine.miniature import make_blip, make_stable_diffusion  # noqa: E402
from tests.s3_server import S3Server  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zip", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    out: Path = options.out
    make_stable_diffusion(out / "sd")
    make_blip(out / "blip")
    server = S3Server()
    try:
        bucket = server.make_bucket()
        server.client().upload_file(str(options.zip), bucket, "raw.zip")
        os.environ |= server.admin.environment() | {"AWS_ENDPOINT_URL_S3": server.endpoint_url}
        overrides = {
            "name": "line-art",
            "base_model": f"{{source: {out / 'sd'}}}",
            "captioner": f"{{source: {out / 'blip'}, max_new_tokens: 8}}",
            "dataset.source": f"s3://{bucket}/raw.zip",
            "storage": f"{{endpoint_url: '{server.endpoint_url}', region: us-east-1, addressing_style: path}}",
            "output.destination": f"s3://{bucket}/runs",
            "preprocess.resolution": 128,
            "training.steps": options.steps,
            "training.gradient_accumulation": 1,
            "training.optimizer.learning_rate": 0.001,
            "training.schedule.warmup_steps": 10,
            "training.precision": "fp32",
            "evaluation.every": max(1, options.steps // 5),
            "evaluation.samples.steps": 4,
        }
        sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
        command = Path(sys.executable).parent / "lora-job"
        manifest = ROOT / "manifests" / "tattoo-captions.yaml"
        subprocess.run([command, "run", manifest, *sets, "--workdir", out / "scratch"], check=True)
        subprocess.run([command, "collect", f"s3://{bucket}/runs/line-art", out / "run"], check=True)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
