"""`lora-job compare`: how alike two adapters are, and what their metadata say differently."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from job.process.faults import resource_errors
from job.storage import open_from_environment
from job.storage.folder import RunFolder
from lora_engine.models.accepted import is_single_file
from lora_engine.text import printable, shortened

if TYPE_CHECKING:
    from job.run.chosen import Chosen, Step

_LONGEST = 60  # characters of a value that are shown
_NAMED = 10  # layers that only one has, at most
# RUN:VARIANT, RUN:VARIANT/seed-N, and each with @STEP. A run's own name may hold colons, as s3://... does.
_PLACE = re.compile(
    r"(?P<run>.+):(?P<variant>[A-Za-z0-9._-]+)(/seed-(?P<seed>[0-9]{1,10}))?(@(?P<step>best|last|[0-9]{1,9}))?",
    re.DOTALL,
)


def compare_command(a: str, b: str, *, as_json: bool) -> str:
    """Compare two adapters; give what is to be printed.

    Args:
        a: an adapter's file, or a checkpoint of a run: RUN:VARIANT@STEP.
        b: another.

    Raises:
        JobError: 2 when a place is none, 42 when nothing is there, 46 when a checkpoint is not as it was committed.
        ModelError: 43 when one is no LoRA, or they are not for one base model.
    """
    with resource_errors(), TemporaryDirectory() as folder:
        chosen = [_fetch(place, Path(folder) / str(number)) for number, place in enumerate((a, b))]
        found = _compared(*chosen)
    return json.dumps(found, indent=2) if as_json else _as_text(found)


def _fetch(place: str, folder: Path) -> "Chosen":
    from job.run.chosen import fetch_adapter_file, find_adapter

    folder.mkdir()
    if is_single_file(place):
        return fetch_adapter_file(open_from_environment(place, os.environ), place, folder)
    match = _PLACE.fullmatch(place)
    if match is None or match["run"].endswith(":"):
        uri, variant, seed, step = place, None, None, None
    else:
        uri, variant, seed, step = match["run"], match["variant"], match["seed"], match["step"]
    run = RunFolder(open_from_environment(uri, os.environ), uri)
    at: Step = "last" if step == "last" else "best" if step in (None, "best") else int(step)
    return find_adapter(run, variant, None if seed is None else int(seed)).fetch(at, folder)


def _compared(a: "Chosen", b: "Chosen") -> dict[str, Any]:
    from lora_engine.adapters.lora_file import read_lora
    from lora_engine.adapters.updates import WHOLE, is_dora, likenesses

    first, second = read_lora(a.path), read_lora(b.path)
    found = {block: asdict(likeness) for block, likeness in likenesses(first, second).items()}
    keys = sorted(first.metadata.keys() | second.metadata.keys())
    said = {key: [first.metadata.get(key), second.metadata.get(key)] for key in keys}
    return {
        "a": a.origin,
        "b": b.origin,
        "whole": found.pop(WHOLE),
        "blocks": found,
        "only_a": [name for name in first.layers if name not in second.layers],
        "only_b": [name for name in second.layers if name not in first.layers],
        "dora": [is_dora(file.layers.values()) for file in (first, second)],
        "metadata": {key: values for key, values in said.items() if values[0] != values[1]},
    }


def _as_text(found: Mapping[str, Any]) -> str:
    rows = {**found["blocks"], "whole": found["whole"]}
    width = max(len(name) for name in rows)
    lines = [f"{which}: {_said_of(found[which])}" for which in ("a", "b")]
    lines += ["", f"{'':{width}}  layers   norm of a   norm of b   of a - b   cosine"]
    for name, row in rows.items():
        cosine = "-" if row["cosine"] is None else f"{row['cosine']:.4f}"
        norms = f"{row['norm_a']:10.4g}  {row['norm_b']:10.4g} {row['difference']:10.4g}"
        lines.append(f"{printable(name):{width}}  {row['layers']:6}  {norms}  {cosine:>7}")
    for which, is_dora in zip("ab", found["dora"], strict=True):
        if layers := found[f"only_{which}"]:
            more = ", ..." if len(layers) > _NAMED else ""
            lines.append(f"only in {which}, {len(layers)} layers: {printable(', '.join(layers[:_NAMED]))}{more}")
        if is_dora:
            lines.append(
                f"{which} is DoRA: the numbers are of what it adds before it scales outputs to its magnitudes."
            )
    for key, values in found["metadata"].items():
        shown = ("-" if value is None else repr(shortened(value, _LONGEST)) for value in values)
        lines.append(f"{printable(shortened(key, _LONGEST))}: {' | '.join(map(printable, shown))}")
    return "\n".join(lines)


def _said_of(origin: Mapping[str, Any]) -> str:
    """Which file it is, and of a run's, at which step: a place may leave that open."""
    if "run" not in origin:
        return printable(str(origin["file"]))
    return printable(f"{origin['run']}, {origin['variant']}, seed {origin['seed']}, step {origin['step']}")
