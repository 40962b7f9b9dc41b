"""The samples on the page: a table of prompts and variants, for each checkpoint and way of prompting."""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from job import layout
from job.layout import Member
from job.report.pictures import Pictures
from job.report.samples import own_settings, read_picture
from job.run.samples import SampleIndex, SampleRow
from job.storage.folder import RunFolder
from lora_engine.text import printable

_QUALITY = 85  # of WebP, from 0 to 100
_MOST_PLACES = 20_000  # of pictures, that the table of pictures shows

Steps = Mapping[Member, Mapping[int, SampleIndex]]


@dataclass(frozen=True)
class Row:
    """A row of the table of pictures: one prompt, with one seed."""

    prompt: str  # bare
    as_trained: tuple[str, ...]  # the prompt as the adapters of each variant were trained
    seed: int
    settings: tuple[str, ...]  # those in which not all prompts are alike, in words


@dataclass(frozen=True)
class Gallery:
    """All pictures of the study, by where they stand in the table of pictures."""

    variants: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()  # training seeds
    steps: tuple[int, ...] = ()
    rows: tuple[Row, ...] = ()
    names: dict[str, str] = field(default_factory=dict)  # place, see `_Sample`, to the picture's name
    left_out: int = 0  # rows that there are besides
    lost: tuple[str, ...] = ()  # places whose sample has no finite pixels, or no file
    first: tuple[str, ...] = ()  # pictures that the page should hold itself, those that matter most first
    files: dict[str, str] = field(default_factory=dict)  # a picture's name to the key of its sample

    def copies(self, run: RunFolder) -> dict[str, Callable[[], bytes]]:
        """A picture's name to what makes it: raises JobError 46 where the sample is damaged."""
        return {name: partial(_copy, run, key, name) for name, key in self.files.items()}

    def as_json(self, embedded: Mapping[str, str]) -> dict[str, object]:
        """What the page's script is given.

        Args:
            embedded: a picture's name to a URI that holds it, of those that the page holds itself.
        """
        return {
            "variants": self.variants,
            "seeds": [str(seed) for seed in self.seeds],  # JavaScript would round a large number
            "steps": self.steps,
            "rows": [
                {"bare": printable(row.prompt), "as_trained": [printable(text) for text in row.as_trained]}
                for row in self.rows
            ],
            "names": self.names,
            "lost": self.lost,
            "embedded": embedded,
        }


@dataclass(frozen=True)
class _Sample:
    """A sample and where it stands."""

    step: int
    seed: int  # training seed
    row: int
    place: str  # variant/seed/step/row/prompting, the variant and the row by their numbers
    key: str | None  # None where there is no picture
    name: str  # of its copy: the start of the sample's SHA-256, so that equal pictures are one


def read_gallery(run: RunFolder, pictures: Pictures) -> Gallery:
    """The samples of the study as the page shows them. Raises JobError 46 where a file is damaged."""
    shown: Steps = {member: steps for member, steps in pictures.indices.items() if steps}
    variants = tuple(dict.fromkeys(member.variant for member in shown))
    drawn = sorted({pair for steps in shown.values() for index in steps.values() for pair in index.drawn})
    steps = tuple(sorted({step for of_member in shown.values() for step in of_member}))
    rows = drawn[: max(1, _MOST_PLACES // max(1, 2 * sum(map(len, shown.values()))))]
    samples = list(_samples(run, shown, pictures.set_name, variants, rows))
    found = [sample for sample in samples if sample.key is not None]
    ends = sorted(
        (sample for sample in found if sample.step in (steps[0], steps[-1])), key=lambda each: (each.seed, each.row)
    )
    return Gallery(
        variants=variants,
        seeds=tuple(sorted({member.seed for member in shown})),
        steps=steps,
        rows=tuple(_row(shown, variants, prompt, seed) for prompt, seed in rows),
        left_out=len(drawn) - len(rows),
        names={sample.place: sample.name for sample in found},
        lost=tuple(sample.place for sample in samples if sample.key is None),
        first=tuple(dict.fromkeys(sample.name for sample in ends)),
        files={sample.name: sample.key for sample in found if sample.key is not None},
    )


def _samples(
    run: RunFolder, shown: Steps, set_name: str, variants: Sequence[str], rows: Sequence[tuple[int, int]]
) -> Iterator[_Sample]:
    """Every sample of these prompts and seeds, once for each way of prompting in which it is shown."""
    places = {pair: at for at, pair in enumerate(rows)}
    for member, steps in shown.items():
        keys = {key for key, _ in run.list(layout.all_samples(member, set_name))}
        for step, index in steps.items():
            for image in index.images:
                at = places.get((image.prompt, image.seed))
                if at is None:
                    continue
                key = f"{layout.samples(member, step, set_name)}/{image.file}"
                found = key if image.file is not None and key in keys else None
                name = _name_of(run, found, image)
                for way in ("bare", "as_trained") if image.prompting == "both" else (image.prompting,):
                    place = f"{variants.index(member.variant)}/{member.seed}/{step}/{at}/{way}"
                    yield _Sample(step, member.seed, at, place, found, name)


def _name_of(run: RunFolder, key: str | None, image: SampleRow) -> str:
    """The name of a sample's copy. An earlier version did not note the hash that it is made of."""
    sha256 = image.sha256 or (hashlib.sha256(run.read(key) or b"").hexdigest() if key is not None else "")
    return sha256[:16]


def _copy(run: RunFolder, key: str, name: str) -> bytes:
    """A sample as WebP. Raises JobError 46 where it is damaged, or not the one that its index tells of."""
    data = io.BytesIO()
    read_picture(run, key, "PNG", sha256=name).save(data, "WEBP", quality=_QUALITY)
    return data.getvalue()


def _row(shown: Steps, variants: Sequence[str], prompt: int, seed: int) -> Row:
    last = {member.variant: steps[max(steps)].settings for member, steps in shown.items()}
    first = last[variants[0]]
    return Row(
        prompt=first.prompts[prompt],
        as_trained=tuple((last[v].as_trained or last[v].prompts)[prompt] for v in variants),
        seed=seed,
        settings=tuple(own_settings(first.settings, prompt)),
    )
