"""From what the user asked for to a manifest: fetch, look, choose, write."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from job.init.choose import choose, fitting_resolution
from job.init.look import look, split_few
from job.init.manifest import Order, describe, draft, manifest_text, warnings
from job.manifest.limits import LimitsConfig
from job.manifest.load import load_manifest
from job.manifest.problems import ManifestError
from job.manifest.schema import Manifest
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.run.context import new_attempt

_IMPATIENT = LimitsConfig(storage_wait_minutes=0)


def check_order(order: Order) -> Manifest:
    """The least manifest of the order, with which its dataset can be fetched.

    Raises:
        ManifestError: something that the user asked for cannot be.
    """
    return load_manifest(json.dumps(draft(order)), "lora-job init")


def make_manifest(least: Manifest, order: Order, words: str, workdir: Path, stream: TextIO) -> tuple[str, list[str]]:
    """The text of the order's manifest, and what to say of what was found, line by line.

    Args:
        least: the manifest of `check_order`.
        words: what the pictures are called, in words that any text encoder reads.
        workdir: the folder for scratch files, where the run will find what was fetched.
        stream: where progress is shown.

    Raises:
        JobError, DataError, UnsafeError: the dataset cannot be fetched, or there is too little in it.
    """
    with Progress(stream) as progress:
        # A person waits for the answer, who sees at once that a store is down.
        attempt = replace(new_attempt(least, workdir, progress, StopFlag()), limits=_IMPATIENT)
        found = look(attempt)
        resolution = fitting_resolution(found, order.base)
        preprocess = least.preprocess.model_copy(update={"resolution": resolution})
        found = split_few(attempt, found, preprocess, least.dataset.split)
    study = choose(found, order.base, words, resolution)
    text = manifest_text(order, found, study)
    try:
        load_manifest(text, "the new manifest")
    except ManifestError as error:
        raise AssertionError(f"{error}\n{text}") from error
    return text, [describe(found), *(f"warning: {each}" for each in warnings(found, study))]
