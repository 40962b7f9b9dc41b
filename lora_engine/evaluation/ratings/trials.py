"""The trials of a blind rating: which pictures stand beside each other, and in which order."""

import hashlib
import json
from collections import Counter
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations, product
from typing import Literal

MOST_PLAIN = 60  # trials, besides catch trials: with these 74, ten to fifteen minutes at eight to twelve seconds each
_ONE_IN = 8  # of each kind of catch trial
_FEWEST_OF_A_KIND = 2  # catch trials, where there are as many plain ones
_A_SCREEN = 3  # pictures, at most
_MOST_COMPARED = 12  # contenders, those shown least, of which every group is weighed

BASE = ""  # the contender that is the untouched base model

Kind = Literal["plain", "repeat", "identical"]
Place = tuple[int, int]  # a prompt, by its place among the prompts, and a sample seed


@dataclass(frozen=True)
class Picture:
    """A picture that is shown."""

    name: str  # 16 hex digits, of the file report/rating/<name>.webp; the same drawn sample has the same name
    contender: str  # the variant; empty for the base model
    seed: int | None  # the training seed; None for the base model


@dataclass(frozen=True)
class Trial:
    """Two or three pictures of one prompt and sample seed, in the order in which they stand on the page."""

    prompt: int  # its place among the prompts
    sample_seed: int
    pictures: tuple[Picture, ...]
    kind: Kind  # repeat: an earlier trial once more; identical: one of the pictures stands twice
    of: int | None = None  # the place of the trial that is repeated


@dataclass(frozen=True)
class Trials:
    """All that a page of a blind rating asks."""

    run: str  # name
    run_id: str
    question: str
    prompts: tuple[str, ...]  # bare
    trials: tuple[Trial, ...]

    @cached_property
    def page_sha256(self) -> str:
        """A hash of what the page shows."""
        shown = {
            "run_id": self.run_id,
            "question": self.question,
            "prompts": self.prompts,
            "trials": [
                {
                    "prompt": trial.prompt,
                    "sample_seed": trial.sample_seed,
                    "pictures": [picture.name for picture in trial.pictures],
                }
                for trial in self.trials
            ],
        }
        return hashlib.sha256(canonical(shown).encode()).hexdigest()

    @property
    def fewest_prompts(self) -> int:
        """On how many prompts those two contenders stand beside each other that do so least."""
        prompts: dict[tuple[str, str], set[int]] = {}
        for trial in self.trials:
            if trial.kind == "plain":
                for a, b in combinations(sorted(picture.contender for picture in trial.pictures), 2):
                    prompts.setdefault((a, b), set()).add(trial.prompt)
        contenders = {picture.contender for trial in self.trials for picture in trial.pictures}
        return min(len(prompts.get(pair, ())) for pair in combinations(sorted(contenders), 2))


def canonical(value: object) -> str:
    """A value as JSON of which hashes are made: sorted keys, no spaces, nothing escaped but what must be."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# Contender to its pictures of each prompt and sample seed, one of each training seed, in the order of these.
Drawn = Mapping[str, Mapping[Place, Sequence[Picture]]]


def make_trials(run: str, run_id: str, question: str, prompts: Sequence[str], drawn: Drawn) -> Trials | None:
    """The trials of a study: at most `MOST_PLAIN`, and about one in four more that say how far a rater can be believed.

    Prompts and sample seeds are taken in turn, and so are training seeds. All is decided by the arguments alone.

    Args:
        run: its name.
        prompts: bare.

    Returns:
        None where no two contenders have different pictures of one prompt and sample seed.
    """
    chosen = _chosen(run_id, drawn)
    if not chosen:
        return None
    ordered = sorted(chosen, key=lambda trial: _dice(run_id, "order", trial.prompt, trial.sample_seed, _names(trial)))
    return Trials(run, run_id, question, tuple(prompts), _with_catch_trials(run_id, _placed(run_id, ordered)))


def _dice(run_id: str, *what: object) -> int:
    """A number that looks like chance, and is the same wherever it is asked for."""
    return int(hashlib.sha256(canonical([run_id, *what]).encode()).hexdigest()[:16], 16)


def _names(trial: Trial) -> tuple[str, ...]:
    return tuple(picture.name for picture in trial.pictures)


def _chosen(run_id: str, drawn: Drawn) -> list[Trial]:
    """Which pictures stand together: each pair of contenders as often as any other, as near as can be."""
    places = _in_turn({place for of in drawn.values() for place in of})
    seeds = max((len(pictures) for of in drawn.values() for pictures in of.values()), default=0)
    together: Counter[frozenset[str]] = Counter()  # how often two contenders, or one, have been shown
    found: dict[frozenset[str], Trial] = {}  # by the names of the pictures
    turn = nothing_new = 0
    while nothing_new < seeds:
        before = len(found)
        for at, place in enumerate(places):
            by_contender = [of[place][(at + turn) % len(of[place])] for of in drawn.values() if of.get(place)]
            group = _least_shown(run_id, place, by_contender, together, found)
            if group is None:
                continue
            found[frozenset(picture.name for picture in group)] = Trial(*place, group, "plain")
            together.update(_shown_by(group))
            if len(found) == MOST_PLAIN:
                return list(found.values())
        nothing_new = 0 if len(found) > before else nothing_new + 1
        turn += 1
    return list(found.values())


def _in_turn(places: Set[Place]) -> list[Place]:
    """All prompts with their first sample seed, then all with their second, and so on."""
    seeds: dict[int, list[int]] = {}
    for prompt, seed in sorted(places):
        seeds.setdefault(prompt, []).append(seed)
    return sorted(places, key=lambda place: (seeds[place[0]].index(place[1]), place[0]))


def _shown_by(group: Sequence[Picture]) -> list[frozenset[str]]:
    """Each contender of a group, and each pair of them."""
    names = [picture.contender for picture in group]
    return [frozenset(some) for size in (1, 2) for some in combinations(names, size)]


def _least_shown(
    run_id: str,
    place: Place,
    pictures: Sequence[Picture],
    together: Mapping[frozenset[str], int],
    found: Container[frozenset[str]],
) -> tuple[Picture, ...] | None:
    """The two or three different pictures whose contenders have stood together least; None where all were shown.

    Of contenders that drew the very same picture, the one that was shown least stands for it.
    """
    rare = sorted(
        pictures, key=lambda one: (together.get(frozenset((one.contender,)), 0), _dice(run_id, one.contender))
    )
    different: dict[str, Picture] = {}
    for one in rare:
        different.setdefault(one.name, one)
    groups = [
        group
        for group in combinations(list(different.values())[:_MOST_COMPARED], min(_A_SCREEN, len(different)))
        if len(group) > 1 and frozenset(picture.name for picture in group) not in found
    ]

    def often(group: tuple[Picture, ...]) -> tuple[int, int]:
        pairs = combinations([picture.contender for picture in group], 2)
        shown = sum(together.get(frozenset(pair), 0) for pair in pairs)
        return shown, _dice(run_id, "group", place, [picture.name for picture in group])

    return min(groups, key=often, default=None)


def _placed(run_id: str, trials: Sequence[Trial]) -> list[Trial]:
    """The trials with their pictures in an order in which each contender stands at each place equally often."""
    stood: Counter[tuple[int, str]] = Counter()
    placed = []
    for trial in trials:

        def often(pictures: tuple[Picture, ...]) -> tuple[int, int]:
            shown = sum(stood[at, picture.contender] ** 2 for at, picture in enumerate(pictures))
            return shown, _dice(run_id, "place", [picture.name for picture in pictures])

        pictures = min(permutations(trial.pictures), key=often)
        stood.update((at, picture.contender) for at, picture in enumerate(pictures))
        placed.append(replace(trial, pictures=pictures))
    return placed


def _with_catch_trials(run_id: str, plain: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials, and among them some of them once more, a good while later, and some that show one picture twice."""
    count = min(len(plain), max(_FEWEST_OF_A_KIND, len(plain) // _ONE_IN))
    later: dict[int, list[tuple[int, Trial]]] = {}  # the place of a plain trial to what comes after it, and of what
    for of in _spread(run_id, "repeat", max(count, len(plain) * 3 // 4), count):
        after = min(len(plain) - 1, of + max(1, len(plain) // 4))
        later.setdefault(after, []).append((of, _repeated(run_id, plain[of])))
    for of in _spread(run_id, "identical", len(plain), count):
        later.setdefault((of + len(plain) // 2) % len(plain), []).append((of, _with_a_twin(run_id, plain[of])))
    result: list[Trial] = []
    place_of = {}
    for at, trial in enumerate(plain):
        place_of[at] = len(result)
        result.append(trial)
        for of, more in later.get(at, ()):
            result.append(replace(more, of=place_of[of]) if more.kind == "repeat" else more)
    return tuple(result)


def _spread(run_id: str, what: str, total: int, count: int) -> list[int]:
    """A number below `total` in each of `count` equal parts."""
    parts = [range(part * total // count, (part + 1) * total // count) for part in range(count)]
    return [part[_dice(run_id, what, at) % len(part)] for at, part in enumerate(parts)]


def _repeated(run_id: str, trial: Trial) -> Trial:
    """The trial with each of its pictures at another place."""
    by = 1 + _dice(run_id, "turned", _names(trial)) % (len(trial.pictures) - 1)
    return replace(trial, pictures=trial.pictures[by:] + trial.pictures[:by], kind="repeat")


def _with_a_twin(run_id: str, trial: Trial) -> Trial:
    """The trial with one of its pictures twice, in the place of another one."""
    size = len(trial.pictures)
    orders = [order for order in product(trial.pictures, repeat=size) if len(set(order)) == size - 1]
    return replace(trial, pictures=orders[_dice(run_id, "twin", _names(trial)) % len(orders)], kind="identical")
