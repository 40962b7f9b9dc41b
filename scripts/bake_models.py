"""Download models from the hub into an image: python scripts/bake_models.py FOLDER [OWNER/NAME[@REVISION] ...]"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from lora_engine.models import captioner
from lora_engine.models.accepted import PIPELINE, plain_patterns


def bake(folder: Path, model: str) -> Path:
    """Put the files that the job reads of a model into FOLDER/OWNER/NAME, and nothing else."""
    repository, _, revision = model.removeprefix("hf://").partition("@")
    pipeline = HfApi().file_exists(repository, "model_index.json", revision=revision or None)
    target = folder / repository

    def download(patterns: Sequence[str]) -> None:
        snapshot_download(repository, revision=revision or None, local_dir=target, allow_patterns=list(patterns))

    download(plain_patterns(PIPELINE) if pipeline else captioner.FILE_PATTERNS)
    for patterns in PIPELINE.rounds() if pipeline else ():
        if lacking := PIPELINE.lacking(target):
            download([pattern for part in lacking for pattern in patterns[part]])
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the hub's notes on the download
    return target


def main() -> None:
    """Bake all models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for model in arguments.models:
        print(bake(arguments.folder, model))


if __name__ == "__main__":
    main()
