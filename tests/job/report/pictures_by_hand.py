"""What a report must say of a run's pictures, computed once more from the run's files and by the measures' own words.

It reads the `samples.json` and `samples.safetensors` of every step, `data/line_art.jsonl`, `data/clip/` and
`resolved.json`, and shares no code with the report.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy import stats

from tests.job.report.by_hand import Spread, assert_holds

Json = dict[str, Any]
LINE_ART = ("border_whiteness", "ink_coverage", "bimodality", "contrast", "stroke_width", "colourfulness")
OF_CLIP = ("clip_score", "clip_retrieval", "diversity", "similarity", "kid", "cmmd")
ALL = ("line_art_distance", "line_art_training_distance", "line_art_gap", *OF_CLIP, *LINE_ART)
NO_CLIP = "no CLIP model is given: evaluation.samples.clip"


@dataclass(frozen=True)
class Drawn:
    """One picture."""

    prompt: str  # bare
    noise: tuple[int, int]  # the place of its prompt, and its seed
    line_art: list[float]
    cosines: list[float] | None  # to each different prompt
    own: int  # the place of its prompt among these
    embedding: np.ndarray | None


@dataclass(frozen=True)
class Compared:
    """The images that pictures are compared with."""

    held_out: np.ndarray
    training: np.ndarray
    embeddings: np.ndarray | None


Pictures = Sequence[Drawn]


def cosines(pictures: Pictures) -> np.ndarray:
    embeddings = np.array([one.embedding for one in pictures], np.float64)
    return np.asarray(embeddings @ embeddings.T)


def distance(pictures: Pictures, images: np.ndarray) -> float:
    found = np.array([one.line_art for one in pictures])
    return float(np.mean([stats.wasserstein_distance(found[:, at], images[:, at]) for at in range(len(LINE_ART))]))


def diversity(pictures: Pictures) -> float:
    of_prompts = []
    for prompt in {one.prompt for one in pictures}:
        own = [one for one in pictures if one.prompt == prompt]
        if len(own) > 1:
            pairs = np.triu_indices(len(own), 1)
            of_prompts.append(float(np.mean(1 - cosines(own)[pairs])))
    return float(np.mean(of_prompts)) if of_prompts else float("nan")


def discrepancy(pictures: Pictures, images: np.ndarray, kernel: Callable[[np.ndarray], np.ndarray]) -> float:
    """Unbiased: without the pairs of one with itself."""
    embeddings = np.array([one.embedding for one in pictures], np.float64)
    ours, theirs, between = (
        kernel(a @ b.T) for a, b in ((embeddings, embeddings), (images, images), (embeddings, images))
    )
    n, m = len(ours), len(theirs)
    within = (ours.sum() - np.trace(ours)) / (n * (n - 1)) + (theirs.sum() - np.trace(theirs)) / (m * (m - 1))
    return float(within - 2 * between.mean())


def fits_best(one: Drawn) -> bool:
    assert one.cosines is not None
    return all(one.cosines[one.own] > other for at, other in enumerate(one.cosines) if at != one.own)


def to_parts(some: Pictures, compared: Compared) -> float:
    """The mean distance to sets of training images, each of as many as are held out."""
    size = min(len(compared.held_out), len(compared.training))
    starts = range(0, len(compared.training) - size + 1, size)
    return float(np.mean([distance(some, compared.training[at : at + size]) for at in starts]))


def within(name: str, interval: Json) -> Json:
    """The interval of a measure within what it can be."""
    if name in ("line_art_gap", "kid", "cmmd") or interval["low"] is None:
        return interval
    open_ended = ("stroke_width", "colourfulness", "line_art_distance", "line_art_training_distance")
    most = {"clip_score": 100.0, "diversity": 2.0, **dict.fromkeys(open_ended, np.inf)}.get(name, 1.0)
    least = -1.0 if name == "similarity" else 0.0
    return interval | {"low": max(interval["low"], least), "high": min(interval["high"], most)}


def statistics(compared: Compared) -> dict[str, Callable[[Pictures], float]]:
    """Every measure of a set of pictures."""
    held_out = np.zeros((0, 0)) if compared.embeddings is None else compared.embeddings
    found: dict[str, Callable[[Pictures], float]] = {
        "clip_score": lambda some: float(np.mean([100 * max((one.cosines or [])[one.own], 0.0) for one in some])),
        "clip_retrieval": lambda some: float(np.mean([fits_best(one) for one in some])),
        "line_art_distance": lambda some: distance(some, compared.held_out),
        "line_art_training_distance": lambda some: distance(some, compared.training),
        "line_art_gap": lambda some: distance(some, compared.held_out) - to_parts(some, compared),
        "diversity": diversity,
        "similarity": lambda some: float(np.mean([held_out @ one.embedding for one in some])),
        "kid": lambda some: discrepancy(some, held_out, lambda cosine: (cosine + 1) ** 3),
        "cmmd": lambda some: discrepancy(some, held_out, lambda cosine: 1000 * np.exp(-(2 - 2 * cosine) / 200)),
    }
    for at, name in enumerate(LINE_ART):
        found[name] = lambda some, at=at: float(np.mean([one.line_art[at] for one in some]))  # type: ignore[misc]
    return found


def unmeasured(pictures: Pictures, compared: Compared) -> dict[str, str]:
    """The measures that such pictures do not have, and why."""
    if not pictures:
        return dict.fromkeys(ALL, "no picture is finite")
    if pictures[0].cosines is None:
        return dict.fromkeys(OF_CLIP, NO_CLIP)
    found, images = {}, len(compared.held_out)
    if len(pictures[0].cosines) == 1:
        found["clip_retrieval"] = "there is one prompt only"
    if len({one.prompt for one in pictures}) == len(pictures):
        found["diversity"] = "one seed a prompt: two are needed"
    for what, count in (("held-out images", images), ("pictures", len(pictures))):
        if count < 8:
            found |= dict.fromkeys(("kid", "cmmd"), f"too few {what}: {count}, and 8 are needed")
    return found


def spread(name: str, sets: Sequence[tuple[Pictures, Pictures]], measure: Callable[[Pictures], float]) -> Spread:
    """The mean over training seeds, and its variance over prompts and seeds.

    Args:
        sets: of each training seed the pictures, and those whose measure is taken off; the same prompts in all.
    """

    def of(some: Pictures, less: Pictures) -> float:
        return measure(some) - (measure(less) if less else 0.0)

    def kept(some: Pictures, prompt: str) -> Pictures:
        return [one for one in some if one.prompt != prompt]

    def mean(sets: Sequence[tuple[Pictures, Pictures]]) -> float:
        return float(np.mean([of(*both) for both in sets]))

    first = sets[0][0]
    sizes = {
        prompt: sum(one.prompt == prompt for one in first) for prompt in dict.fromkeys(one.prompt for one in first)
    }
    if name == "diversity":  # a mean over prompts, of those that have several pictures
        sizes = {prompt: 1 for prompt, size in sizes.items() if size > 1}
    count, groups, total = sum(sizes.values()), len(sizes), mean(sets)
    variance = None
    if groups > 1:
        without = {p: mean([(kept(some, p), kept(less, p)) for some, less in sets]) for p in sizes}
        bias = sum((count - sizes[p]) * (total - without[p]) for p in sizes) / count
        moved = [without[p] - total + sizes[p] / (count - sizes[p]) * bias for p in sizes]
        variance = (groups - 1) / groups * sum(each**2 for each in moved)
    if name == "clip_retrieval" and variance is not None:
        fitting = np.array([[fits_best(one) for one in some] for some, _ in sets], float)
        if sets[0][1]:
            fitting -= np.array([[fits_best(one) for one in less] for _, less in sets], float)
        share = (groups * float(np.abs(fitting).mean()) + 1) / (groups + 2)
        variance = max(variance, share * (1 - share) / groups)
    of_seeds = float(np.var([of(*both) for both in sets], ddof=1)) / len(sets) if len(sets) > 1 else 0.0
    freedom = count**2 / sum(size**2 for size in sizes.values()) - 1
    return Spread(total, variance, of_seeds, (freedom, len(sets) - 1))


@dataclass(frozen=True)
class PicturesByHand:
    """The pictures of a run, and all that its report says of them but for copies."""

    folder: Path

    @cached_property
    def resolved(self) -> Json:
        found: Json = json.loads((self.folder / "resolved.json").read_text())
        return found

    @cached_property
    def adapters(self) -> list[tuple[str, int]]:
        return [(member["variant"], member["seed"]) for pack in self.resolved["packs"] for member in pack["members"]]

    def samples(self, variant: str, seed: int) -> Path:
        """The folder of an adapter's samples."""
        decided = self.resolved["samples"]["set"]
        return self.folder / (
            f"samples/{decided}/{variant}/seed-{seed}" if decided else f"variants/{variant}/seed-{seed}/samples"
        )

    def steps(self, variant: str, seed: int) -> list[int]:
        found = self.samples(variant, seed).glob("step-??????/samples.json")
        return sorted(int(path.parent.name[5:]) for path in found)

    def index(self, variant: str, seed: int, step: int) -> Json:
        found: Json = json.loads((self.samples(variant, seed) / f"step-{step:06d}" / "samples.json").read_text())
        return found

    @cached_property
    def compared(self) -> Compared:
        rows = [json.loads(line) for line in (self.folder / "data/images.jsonl").read_text().splitlines()]
        splits = {row["id"]: row["split"] for row in rows if row["split"]}
        measured = [json.loads(line) for line in (self.folder / "data/line_art.jsonl").read_text().splitlines()]
        line_art = {row["id"]: [row[name] for name in LINE_ART] for row in measured}
        assert line_art.keys() == splits.keys()
        clip = self.index(*self.adapters[0], self.steps(*self.adapters[0])[-1])["settings"]["clip_sha256"]
        embeddings = None
        if clip is not None:
            found = load_file(self.folder / "data" / "clip" / f"{clip[:16]}.safetensors")["embeddings"]
            held_out = [at for at, image in enumerate(sorted(splits)) if splits[image] == "validation"]
            embeddings = found[held_out, 0].astype(np.float64)
        return Compared(
            held_out=np.array([line_art[image] for image in sorted(splits) if splits[image] == "validation"]),
            training=np.array([line_art[image] for image in sorted(splits) if splits[image] == "train"]),
            embeddings=embeddings,
        )

    def pictures(self, variant: str, seed: int, step: int, prompting: str) -> list[Drawn]:
        index = self.index(variant, seed, step)
        prompts = index["settings"]["prompts"]
        different = list(dict.fromkeys(prompts))
        rows = [row for row in index["images"] if row["file"]]
        path = self.samples(variant, seed) / f"step-{step:06d}" / "samples.safetensors"
        embeddings = load_file(path)["embeddings"] if path.exists() else [None] * len(rows)
        return [
            Drawn(
                prompt=prompts[row["prompt"]],
                noise=(row["prompt"], row["seed"]),
                line_art=[row["line_art"][name] for name in LINE_ART],
                cosines=row["clip_cosines"] and [row["clip_cosines"][prompts.index(text)] for text in different],
                own=different.index(prompts[row["prompt"]]),
                embedding=None if embedding is None else embedding.astype(np.float64),
            )
            for row, embedding in zip(rows, embeddings, strict=True)
            if row["prompting"] in (prompting, "both")
        ]

    def _spreads(self, ours: Sequence[Pictures], theirs: Sequence[Pictures]) -> dict[str, Spread]:
        """Every measure that these have, less that of others where there are any, of what all have."""
        common = set.intersection(*({one.noise for one in some} for some in (*ours, *theirs)))
        both = [
            [sorted((one for one in some if one.noise in common), key=lambda one: one.noise) for some in of]
            for of in (ours, theirs or [[]] * len(ours))
        ]
        missing = unmeasured(both[0][0], self.compared)
        return {
            name: spread(name, list(zip(*both, strict=True)), measure)
            for name, measure in statistics(self.compared).items()
            if name not in missing
        }

    def _measures(self, places: Sequence[tuple[str, int, int]], prompting: str) -> Json:
        """What the report says of adapters, one of each training seed, each at a step."""
        ours = [self.pictures(*place, prompting) for place in places]
        found = {"unmeasured": unmeasured(ours[0], self.compared), "change": {}}
        found["line_art"] = self._line_art(ours)
        found["measures"] = {name: within(name, each.interval(0.95)) for name, each in self._spreads(ours, []).items()}
        if all(step > 0 and 0 in self.steps(variant, seed) for variant, seed, step in places):
            base = [self.pictures(variant, seed, 0, prompting) for variant, seed, _ in places]
            found["change"] = {name: each.interval(0.95) for name, each in self._spreads(ours, base).items()}
        return found

    def _line_art(self, ours: Sequence[Pictures]) -> Json:
        """Each line-art measure's distance to the held-out and to the training images."""
        common = set.intersection(*({one.noise for one in some} for some in ours))
        sets = [(sorted((one for one in some if one.noise in common), key=lambda one: one.noise), []) for some in ours]
        if not common:
            return {}
        images = {"held_out": self.compared.held_out, "training": self.compared.training}

        def interval(at: int, every: Any) -> Json:
            def to(some: Pictures) -> float:
                return float(stats.wasserstein_distance([one.line_art[at] for one in some], every[:, at]))

            return within("line_art_distance", spread(LINE_ART[at], sets, to).interval(0.95))

        return {
            name: {which: interval(at, every) for which, every in images.items() if len(every)}
            for at, name in enumerate(LINE_ART)
        }

    def member(self, variant: str, seed: int) -> list[Json]:
        """The points of an adapter."""
        found = []
        for step in self.steps(variant, seed):
            rows = self.index(variant, seed, step)["images"]
            point: Json = {"step": step}
            for prompting in ("bare", "as_trained"):
                files = [row["file"] for row in rows if row["prompting"] in (prompting, "both")]
                counts = {"images": sum(map(bool, files)), "not_finite": files.count(None)}
                point[prompting] = counts | self._measures([(variant, seed, step)], prompting)
            found.append(point)
        return found

    def last(self, variant: str) -> list[tuple[str, int, int]]:
        """The variant's adapters with their last steps."""
        return [(name, seed, self.steps(name, seed)[-1]) for name, seed in self.adapters if name == variant]

    def variant(self, variant: str) -> Json:
        places = self.last(variant)
        both = {prompting: self._measures(places, prompting) for prompting in ("bare", "as_trained")}
        return both | {"variant": variant, "seeds": len(places)}

    def pair(self, a: str, b: str, seeds: Sequence[int], rows: int) -> Mapping[str, Mapping[str, Json]]:
        """The pictures of a row over these seeds, of as many rows that are read together."""
        texts = [self.index(*place)["settings"] for name, _ in self.adapters for place in self.last(name)]
        ways = 2 if any(each["as_trained"] != each["prompts"] for each in texts) else 1
        confidence = 1 - 0.05 / (rows * len(ALL) * ways)
        found: dict[str, dict[str, Json]] = {}
        for prompting in ("bare", "as_trained"):
            sets = [[self.pictures(*at, prompting) for at in self.last(name) if at[1] in seeds] for name in (a, b)]
            found[prompting] = {}
            for name, each in self._spreads(*sets).items():
                together = each.interval(confidence)
                found[prompting][name] = each.interval(0.95) | {
                    "simultaneous_low": together["low"],
                    "simultaneous_high": together["high"],
                }
        return found


def assert_pictures_hold(folder: Path) -> Json:
    """Check every number of the report's pictures; give the report."""
    report: Json = json.loads((folder / "report" / "comparison.json").read_text())
    by_hand = PicturesByHand(folder)
    assert [(member["variant"], member["seed"]) for member in report["members"]] == by_hand.adapters
    for member in report["members"]:
        place = f"{member['variant']} {member['seed']}"
        assert_measured(member["samples"], by_hand.member(member["variant"], member["seed"]), place)
    assert [variant["variant"] for variant in report["variants"]] == list(dict(by_hand.adapters))
    for variant in report["variants"]:
        assert_measured(variant, by_hand.variant(variant["variant"]), variant["variant"])
    over_seeds = [pair["seed"] is None for pair in report["pairs"]]
    for pair in report["pairs"]:
        seeds = [seed for _, seed in by_hand.adapters] if pair["seed"] is None else [pair["seed"]]
        expected = by_hand.pair(pair["a"], pair["b"], seeds, over_seeds.count(pair["seed"] is None))
        for prompting, measures in expected.items():
            assert pair["pictures"][prompting].keys() == measures.keys()
            assert_holds(pair["pictures"][prompting], dict(measures), f"{pair['a']} {pair['b']} {pair['seed']}")
    return report


def assert_measured(found: Any, expected: Any, place: str) -> None:
    """Check that all that is expected stands there, and nothing more is measured."""
    assert_holds(found, expected, place)
    if isinstance(expected, dict):
        for name in ("measures", "change", "unmeasured"):
            assert found.get(name, {}).keys() == expected.get(name, {}).keys(), f"{place} {name}"
    items = expected.items() if isinstance(expected, dict) else enumerate(expected)
    for key, value in items if isinstance(expected, dict | list) else ():
        if isinstance(value, dict | list):
            assert_measured(found[key], value, f"{place} {key}")
