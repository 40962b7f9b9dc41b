"""Writes the manifest of a study, with what was found and why in comments."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from textwrap import wrap
from typing import Any

from job.init.choose import Base, Study, mostly_alike
from job.init.look import Found
from job.manifest.yaml_reader import write_scalar
from lora_engine.evaluation.statistics import FEWEST_GROUPS
from lora_engine.images.fates import folder_warnings, said_because
from lora_engine.text import printable, shortened

_COLUMN = 36  # where comments stand beside the keys; beside a longer line there is none, it stands above
_LONGEST = 118  # characters of a line of comment

Row = tuple[str, str]  # a line of YAML and its comment; either may be empty


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    name: str
    source: str
    destination: str
    base: Base
    captioner: str
    storage: Mapping[str, str]  # settings of the store, where one is used


def manifest_text(order: Order, found: Found, study: Study) -> str:
    """The manifest, with a comment wherever something was decided."""
    rows = [
        *(("", line) for line in (f"Written by lora-job init. {describe(found)}", *warnings(found, study))),
        ("apiVersion: lora-job/v1", ""),
        (f"name: {write_scalar(order.name)}", "the run's folder; the same manifest again resumes it"),
        ("seeds: [1337]", "three or more let the verdict speak of strategies, not of these adapters alone"),
        *_places(order, found, study),
        *_variants(found, study),
        ("lora: {rank: 8, alpha: 8}", "a higher rank holds more, and memorises sooner; keep alpha equal to it"),
        *_training(order.base, study),
        *_evaluation(order, study),
        (f"output: {{destination: {write_scalar(order.destination)}}}", "results go to <destination>/<name>/"),
    ]
    return "".join(f"{line}\n" for row in rows for line in _lines(*row))


def describe(found: Found) -> str:
    """What was found, in a sentence."""
    sides = [(picture.width or 0, picture.height or 0) for picture in found.pictures]
    small, large = (by(sides, key=lambda size: size[0] * size[1]) for by in (min, max))
    sizes = "x".join(map(str, small)) + (f" to {'x'.join(map(str, large))}" if small != large else "")
    captions = f"{len(found.captions) or 'none'} with a caption of its own"
    return f"{found.source}: {_count(len(found.pictures), 'picture')}, {sizes} pixels, {captions}."


def warnings(found: Found, study: Study) -> list[str]:
    """What the user should look at, a sentence each."""
    said = []
    if found.rejected:
        said.append(_rejected(found))
    ignored = [(file.source, file.ignored) for file in found.ignored]
    if ignored:
        said.append(f"Of the files, {said_because('ignored', ignored)}.")
    said += folder_warnings(file.source for file in (*found.pictures, *found.ignored))
    if (alike := mostly_alike(found)) is not None:
        said.append(f"{alike}: an adapter learns little from such captions about what prompts say.")
    if study.held_out < FEWEST_GROUPS:
        said.append(
            f"{_count(study.held_out, 'held-out picture')} can bring no verdict, which needs {FEWEST_GROUPS}: "
            f"have {4 * FEWEST_GROUPS} pictures in all for one."
        )
    return said


def _rejected(found: Found) -> str:
    """How many files cannot be used, of which kinds, and why the first cannot."""
    kinds = Counter(PurePosixPath(file.source).suffix.lower() or "no suffix" for file in found.rejected).most_common(3)
    first, counts = found.rejected[0], ", ".join(f"{count} {kind}" for kind, count in kinds)
    return (
        f"{_count(len(found.rejected), 'file')} cannot be used ({counts}), "
        f"such as {shortened(first.source, 40)}: {first.rejected}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _places(order: Order, found: Found, study: Study) -> Iterator[Row]:
    base = order.base
    if order.storage:
        settings = ", ".join(f"{key}: {write_scalar(value)}" for key, value in order.storage.items())
        yield f"storage: {{{settings}}}", "as AWS_ENDPOINT_URL says; credentials and region come from the AWS chain"
    yield "base_model:", ""
    yield f"  source: {write_scalar(base.source)}", ""
    if base.revision:
        yield f"  revision: {base.revision}", ""
    yield "dataset:", ""
    yield f"  source: {write_scalar(order.source)}", ""
    about = "" if found.split else "about "
    split = (
        f"{about}{_count(study.held_out, 'picture')} held out to score on (at most a quarter), {study.train} trained on"
    )
    yield "  validation_min: 16", split
    yield "preprocess:", ""
    yield f"  resolution: {study.resolution}", _why_resolution(base, found, study)
    if study.max_rejected is not None:
        files = len(found.rejected) + len(found.pictures)
        yield f"  max_rejected_fraction: {study.max_rejected:g}", f"{len(found.rejected)} of {files} files, see above"
    words = ", max_new_tokens: 16" if base.miniature else ""
    yield f"captioner: {{source: {write_scalar(order.captioner)}{words}}}", ""


def _why_resolution(base: Base, found: Found, study: Study) -> str:
    smaller = sum(side < study.resolution for side in found.short_sides)
    enlarged = f"; {smaller} of {len(found.pictures)} pictures are smaller, so enlarged" if smaller else ""
    if study.resolution < base.resolution:
        return f"most are smaller than the base's {base.resolution}{enlarged}"
    return f"the base's own{'' if base.known else ', probably: correct it'}{enlarged}"


def _variants(found: Found, study: Study) -> Iterator[Row]:
    text, hints = write_scalar(study.text), write_scalar(study.hints)
    yield "variants:", "an adapter for each, trained on the same pictures in the same order"
    yield "", f"  {_why_text(study)}"
    yield f"  - {{name: vanilla, captions: {{strategy: constant, text: {text}}}}}", ""
    if study.own:
        without = len(found.pictures) - len(found.captions)
        missing = f", missing: {text}" if without else ""
        about = f": {without} pictures have none and get the text of `missing`" if without else ""
        yield "", f"  The captions that came with the pictures{about}."
        yield f"  - {{name: own, captions: {{strategy: existing{missing}}}}}", ""
    elif found.captions and study.text_of != "captions":
        count = len(found.captions)
        yield (
            "",
            f"  Only {count} of {len(found.pictures)} pictures have a caption: too few for a variant of their own.",
        )
    yield "", "  The captioner's description of each picture."
    yield "  - {name: blip, captions: {strategy: blip}}", ""
    if not study.own:
        yield "", "  The same with words for the style that all pictures share: write yours, and prompt with them."
        yield f"  - {{name: blip_plus, captions: {{strategy: blip, style_hints: {hints}}}}}", ""


def _why_text(study: Study) -> str:
    if study.text_of == "captions":
        return "One text for all: every picture came with this one as its caption."
    if study.text_of == "kohya":
        return "One text for all: what the folder's name says. Write what your pictures have in common."
    return "One text for all. CHANGE IT to what your pictures have in common, such as: a watercolor of a bird"


def _training(base: Base, study: Study) -> Iterator[Row]:
    yield "training:", ""
    seen = f"updates of {_count(study.batch_size * study.accumulation, 'picture')}"
    yield f"  steps: {study.steps}", f"{seen}: each is seen {study.epochs:.3g} times; 100 at most, against memorising"
    yield f"  batch_size: {study.batch_size}", f"pictures at once, of {study.train}; fewer take less memory"
    yield f"  gradient_accumulation: {study.accumulation}", "batches an update: more for more pictures"
    yield f"  optimizer: {{name: adamw, learning_rate: {base.learning_rate}}}", ""
    yield f"  schedule: {{name: cosine, warmup_steps: {study.warmup}}}", ""
    if base.miniature:
        yield "  precision: fp32", ""


def _evaluation(order: Order, study: Study) -> Iterator[Row]:
    base = order.base
    yield "evaluation:", ""
    yield f"  every: {study.every}", "updates from one score, checkpoint and set of samples to the next"
    if base.miniature:
        yield "  timesteps: 2", ""
        yield "  final_timesteps: 4", ""
    yield "", "  What is drawn: captions of held-out pictures. For prompts of your own add prompts: [a cat, a dog]"
    drawn = "steps: 20, guidance: 3, " if base.miniature else ""
    yield f"  samples: {{{drawn}clip: {{source: {base.clip}}}}}", ""


def _lines(line: str, comment: str) -> Iterator[str]:
    """A row as it stands in the file. What a comment quotes stays in comments: nothing of it is read as YAML."""
    shown = printable(comment.strip())
    if line and comment and len(line) < _COLUMN - 1:
        yield f"{line:<{_COLUMN}}# {shortened(shown, _LONGEST - _COLUMN)}"
        return
    indent = " " * (len(comment) - len(comment.lstrip()) or len(line) - len(line.lstrip()))
    yield from (f"{indent}# {part}" for part in wrap(shown, _LONGEST - len(indent)))
    if line:
        yield line


def draft(order: Order) -> dict[str, Any]:
    """The least that a manifest can be with what the user asked for, to check that and to fetch the dataset."""
    return {
        "apiVersion": "lora-job/v1",
        "name": order.name,
        "storage": dict(order.storage),
        "base_model": {"source": order.base.source},
        "dataset": {"source": order.source},
        "captioner": {"source": order.captioner},
        "variants": [{"name": "vanilla", "captions": {"strategy": "constant", "text": ""}}],
        "training": {"steps": 1},
        "output": {"destination": order.destination},
    }
