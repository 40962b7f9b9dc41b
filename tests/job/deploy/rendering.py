"""`lora-job render` as a user runs it, in this process, and the documents that golden files hold.

`python -m tests.job.deploy.rendering` writes the golden files.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from job.cli.commands import app
from job.cli.exit import run_to_exit

HERE = Path(__file__).resolve().parent
STUDY = HERE / "study.yaml"
GOLDEN = HERE / "golden"

IMAGE = ("--image", "registry.example/team/lora-job:0.1.0")
EVERY = ("--per-variant", "--per-seed", "--gpus", "2", "--cpus", "8", "--memory", "61440Mi", "--set", "lora.alpha=4")
AWS = ("--queue", "spot-gpus")
GCP = ("--location", "europe-west4")
ROLE = "arn:aws:iam::123456789012:role"
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hub-AbCdEf"

CASES: dict[str, tuple[str, ...]] = {
    "kubernetes-plain": ("kubernetes",),
    "kubernetes-per-variant": ("kubernetes", "--per-variant"),
    "kubernetes-cpu": ("kubernetes", "--gpus", "0"),
    "kubernetes-every-option": (
        *("kubernetes", *EVERY, "--scratch", "100Gi", "--secret", "hub", "--secret", "s3-keys"),
        *("--service-account", "trainer", "--namespace", "training", "--queue", "gpus", "--network-policy"),
        *("--set", "output.storage.endpoint_url=http://minio:9000"),
    ),
    "aws-batch-plain": ("aws-batch", *AWS),
    "aws-batch-per-variant": ("aws-batch", *AWS, "--per-variant"),
    "aws-batch-cpu": ("aws-batch", *AWS, "--gpus", "0"),
    "aws-batch-every-option": (
        *("aws-batch", *AWS, *EVERY, "--secret", f"HF_TOKEN={SECRET}"),
        *("--service-account", f"{ROLE}/lora-job", "--execution-role", f"{ROLE}/ecs"),
    ),
    "gcp-batch-plain": ("gcp-batch", *GCP, "--machine-type", "g2-standard-4"),
    "gcp-batch-per-variant": ("gcp-batch", *GCP, "--machine-type", "g2-standard-4", "--per-variant"),
    "gcp-batch-cpu": ("gcp-batch", *GCP, "--gpus", "0"),
    "gcp-batch-every-option": (
        *("gcp-batch", *GCP, *EVERY, "--scratch", "100Gi", "--spot"),
        *("--machine-type", "n1-standard-16", "--accelerator", "nvidia-tesla-t4"),
        *("--secret", "AWS_ACCESS_KEY_ID=projects/p/secrets/id/versions/1"),
        *("--secret", "AWS_SECRET_ACCESS_KEY=projects/p/secrets/key/versions/latest"),
        *("--service-account", "trainer@p.iam.gserviceaccount.com"),
    ),
}


@dataclass(frozen=True)
class Rendered:
    """What the command said and how it ended."""

    code: int
    document: str
    said: str

    @property
    def commands(self) -> list[str]:
        """What to do with the document."""
        return [line.removeprefix("next: ") for line in self.said.splitlines() if line.startswith("next: ")]


def render(target: str, manifest: Path | str | None, *options: str) -> Rendered:
    """Run `lora-job render`."""
    document, said = StringIO(), StringIO()
    arguments = ["lora-job", "render", target, *([] if manifest is None else [str(manifest)]), *options]
    with patch.object(sys, "argv", arguments), redirect_stdout(document), redirect_stderr(said):
        try:
            run_to_exit(app)
        except SystemExit as end:
            code = int(end.code or 0)
    return Rendered(code, document.getvalue(), said.getvalue())


def render_case(arguments: Sequence[str]) -> Rendered:
    """Render the study for a golden file."""
    target, *options = arguments
    return render(target, STUDY, *IMAGE, *options)


def golden_path(name: str) -> Path:
    """Where a case's document lies."""
    return GOLDEN / f"{name}.{'yaml' if name.startswith('kubernetes') else 'json'}"


if __name__ == "__main__":
    for name, arguments in CASES.items():
        golden_path(name).write_text(render_case(arguments).document)
