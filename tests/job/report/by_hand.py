"""What a report must say of a run, computed once more from the run's files, in plain loops and by the design's words.

It shares no code with the report. What each variant was trained with, by component and weight, is for the test to say.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan, sqrt
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from scipy import stats

Row = list[float]  # a number for each held-out image
Rows = list[Row]  # of each seed
Json = dict[str, Any]


@dataclass(frozen=True)
class LossFile:
    """What stands in one file of losses."""

    losses: dict[str, list[Row]]  # component to a number for each image and timestep
    timesteps: list[list[int]]  # of each image


def read_losses(path: Path) -> LossFile:
    with safe_open(path, "numpy") as file:
        names = json.loads(file.metadata()["caption_sets"])
        losses = dict(zip(names, file.get_tensor("losses").astype(float).tolist(), strict=True))
        return LossFile(losses, file.get_tensor("timesteps").tolist())


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def assert_holds(found: Any, expected: Any, place: str = "", *, rel: float = 1e-6) -> None:
    """Check that all that is expected stands in what is found, numbers but for rounding."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_holds(found[key], value, f"{place}.{key}", rel=rel)
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for at, value in enumerate(expected):
            assert_holds(found[at], value, f"{place}[{at}]", rel=rel)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=1e-11), place
    else:
        assert found == expected, place


# --- means, intervals, tests ---


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and images, and the two summands of its variance."""

    mean: float
    of_images: float | None  # None for a single group
    of_seeds: float
    freedoms: tuple[float, int]  # degrees of freedom of the two

    def times(self, function: Any) -> float | None:
        """The standard error times a function of the degrees of freedom, weighted as Cochran and Cox do."""
        if self.of_images is None:
            return None
        parts = [(self.of_images, self.freedoms[0]), (self.of_seeds, self.freedoms[1])]
        total = sum(variance * function(freedom) for variance, freedom in parts if variance > 0)
        return total / sqrt(self.of_images + self.of_seeds) if self.of_images + self.of_seeds else 0.0

    def interval(self, confidence: float) -> Json:
        half = self.times(lambda freedom: stats.t.ppf((1 + confidence) / 2, freedom))
        ends = (None, None) if half is None else (self.mean - half, self.mean + half)
        return {"mean": self.mean, "low": ends[0], "high": ends[1], "confidence": confidence}

    def below_zero(self, level: float) -> bool:
        reach = self.times(lambda freedom: stats.t.ppf(1 - level, freedom))
        return reach is not None and self.mean + reach < 0

    def minimum_detectable(self, confidence: float) -> float | None:
        return self.times(lambda freedom: detectable(freedom, confidence))


def detectable(freedom: float, confidence: float) -> float:
    """Abramowitz and Stegun 26.7.10: of how many standard errors t finds an effect in 80 of 100 cases."""
    quantile = stats.t.ppf((1 + confidence) / 2, freedom)
    return float(quantile * (1 - 1 / (4 * freedom)) + NormalDist().inv_cdf(0.8) * sqrt(1 + quantile**2 / (2 * freedom)))


def spread(rows: Rows, groups: Sequence[str]) -> Spread:
    images = [mean(values) for values in zip(*rows, strict=True)]
    total, names = mean(images), sorted(set(groups))
    without = []
    for left_out in names:
        kept = [value for value, group in zip(images, groups, strict=True) if group != left_out]
        without.append(mean(kept) if kept else 0.0)
    of_images = None
    if len(names) > 1:
        of_images = (len(names) - 1) / len(names) * sum((value - total) ** 2 for value in without)
    sizes = [list(groups).count(name) for name in names]
    freedom = len(images) ** 2 / sum(size**2 for size in sizes) - 1
    of_seeds = float(np.var([mean(row) for row in rows], ddof=1)) / len(rows) if len(rows) > 1 else 0.0
    return Spread(total, of_images, of_seeds, (freedom, len(rows) - 1))


def interval(rows: Rows, groups: Sequence[str], confidence: float) -> Json:
    """The interval of a mean. That of one seed and images of which no two are alike is scipy's own."""
    found = spread(rows, groups).interval(confidence)
    if len(rows) == 1 and len(set(groups)) == len(groups):
        ends = stats.ttest_1samp(rows[0], 0).confidence_interval(confidence)
        found |= {"low": float(ends.low), "high": float(ends.high)}
    return found


def sign(found: Json) -> int:
    return 0 if found["low"] is None else int(found["low"] > 0) - int(found["high"] < 0)


def minus(left: Rows, right: Rows) -> Rows:
    return [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def times(factor: float, rows: Rows) -> Rows:
    return [[factor * value for value in row] for row in rows]


# --- the run ---


@dataclass(frozen=True)
class ByHand:
    """A run that scored its adapters as this version does, and all numbers of its report."""

    folder: Path
    own: Mapping[str, Mapping[str, float]]  # variant to the components that it was trained with, by weight

    @cached_property
    def resolved(self) -> Json:
        found: Json = json.loads((self.folder / "resolved.json").read_text())
        return found

    @cached_property
    def images(self) -> list[Json]:
        return self.rows("data/images.jsonl")

    @cached_property
    def groups(self) -> list[str]:
        held_out = [image for image in self.images if image["split"] == "validation"]
        return [image["group"] for image in sorted(held_out, key=lambda image: image["id"])]

    @cached_property
    def adapters(self) -> list[tuple[str, int]]:
        return [(member["variant"], member["seed"]) for pack in self.resolved["packs"] for member in pack["members"]]

    @cached_property
    def seeds(self) -> list[int]:
        return list(self.resolved["identity"]["seeds"])

    def rows(self, key: str) -> list[Json]:
        return [json.loads(line) for line in (self.folder / key).read_text().splitlines()]

    def steps(self, variant: str, seed: int) -> list[int]:
        return [row["step"] for row in self.rows(f"variants/{variant}/seed-{seed}/validation.jsonl")]

    @cached_property
    def files(self) -> dict[tuple[str, int, int], LossFile]:
        """The losses of every adapter and step."""
        return {
            (variant, seed, step): read_losses(
                self.folder / f"variants/{variant}/seed-{seed}/validation/step-{step:06d}.safetensors"
            )
            for variant, seed in self.adapters
            for step in self.steps(variant, seed)
        }

    def last(self, variant: str, seed: int) -> int:
        return self.steps(variant, seed)[-1]

    @cached_property
    def curve(self) -> list[list[int]]:
        """Of each image, the places of the curve's timesteps among the final ones."""
        variant, seed = self.adapters[0]
        first, second = (self.files[variant, seed, step].timesteps for step in self.steps(variant, seed)[:2])
        return [[whole.index(t) for t in part] for whole, part in zip(first, second, strict=True)]

    def at(self, variant: str, seed: int, step: int, weights: Mapping[str, float], *, curve: bool) -> list[Row]:
        """The losses of each image at each timestep, as a mean over components."""
        file, found = self.files[variant, seed, step], []
        for number, timesteps in enumerate(file.timesteps):
            columns = list(range(len(timesteps)))
            if curve and len(timesteps) > len(self.curve[number]):
                columns = self.curve[number]
            found.append([sum(w * file.losses[name][number][t] for name, w in weights.items()) for t in columns])
        return found

    def loss(self, variant: str, seed: int, step: int, weights: Mapping[str, float], *, curve: bool) -> Row:
        """The loss of each image."""
        return [mean(row) for row in self.at(variant, seed, step, weights, curve=curve)]

    # --- members ---

    def member(self, variant: str, seed: int) -> Json:
        """All numbers of the report of an adapter that was trained to its end."""
        own, last = self.own[variant], self.last(variant, seed)
        base, final = (self.loss(variant, seed, step, own, curve=False) for step in (0, last))
        at_base, at_final = (self.at(variant, seed, step, own, curve=False) for step in (0, last))
        timesteps = self.files[variant, seed, last].timesteps
        metrics = self.rows(f"variants/{variant}/seed-{seed}/metrics.jsonl")
        best = self.best(variant, seed, range(len(self.groups)))
        commits = [self.commit(variant, seed, step) for step in self.steps(variant, seed)[1:]]
        return {
            "variant": variant,
            "seed": seed,
            "steps": len(metrics),
            "skipped_steps": sum(row["skipped"] for row in metrics),
            "images_per_second": median(row["images_per_second"] for row in metrics),
            "base_loss": mean(base),
            "curve_base_loss": mean(self.loss(variant, seed, 0, own, curve=True)),
            "best_loss": mean(self.loss(variant, seed, best, own, curve=True)),
            "final_loss": mean(final),
            "final_loss_interval": interval([final], self.groups, 0.95),
            "gain": interval([[b - f for b, f in zip(base, final, strict=True)]], self.groups, 0.95),
            "min_snr_base_loss": self.min_snr(at_base, timesteps),
            "min_snr_final_loss": self.min_snr(at_final, timesteps),
            "listening": self.listening(variant, seed),
            "caption_sets": {
                name: self.caption_set(variant, seed, name) for name in self.files[variant, seed, last].losses
            },
            "timesteps": [
                {
                    "first": min(row[t] for row in timesteps),
                    "last": max(row[t] for row in timesteps),
                    "base": mean([row[t] for row in at_base]),
                    "final": mean([row[t] for row in at_final]),
                }
                for t in range(len(timesteps[0]))
            ],
            "validation": [self.evaluation(variant, seed, step) for step in self.steps(variant, seed)],
            "train": [{"step": row["step"], "loss": row["loss"]} for row in metrics],
            "best": {"step": best, "loss": mean(self.loss(variant, seed, best, own, curve=True))},
            "final": {"step": last, "loss": mean(final)},
            "norms": self.norms(variant, seed),
            "checkpoints": [{"step": c["step"], "weights_sha256": c["weights_sha256"]} for c in commits],
            "fairness": {
                field: hashlib.sha256("\n".join(row[field] for row in metrics).encode()).hexdigest()
                for field in ("order_sha256", "timesteps_sha256", "noise_sha256")
            }
            | {"initial_weights_sha256": commits[0]["initial_weights_sha256"]},
        }

    def commit(self, variant: str, seed: int, step: int) -> Json:
        key = f"variants/{variant}/seed-{seed}/checkpoints/step-{step:06d}/COMMIT.json"
        commit: Json = json.loads((self.folder / key).read_text())
        return commit

    def norms(self, variant: str, seed: int) -> Json:
        """The sizes of what the last checkpoint adds, with every number of every update."""
        folder = self.folder / f"variants/{variant}/seed-{seed}/checkpoints/step-{self.last(variant, seed):06d}"
        squares: dict[str, float] = {}
        with safe_open(folder / f"{variant}.safetensors", "numpy") as file:
            for layer in [key.removesuffix(".alpha") for key in file.keys() if key.endswith(".alpha")]:  # noqa: SIM118
                down, up = (file.get_tensor(f"{layer}.lora_{part}.weight").astype(float) for part in ("down", "up"))
                update = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
                update *= float(file.get_tensor(f"{layer}.alpha")) / len(down)
                words = layer.removeprefix("lora_").replace("down_", "down").replace("up_", "up").split("_")
                numbered = {"downblocks": "down_blocks", "upblocks": "up_blocks"}
                block = "text_encoder" if words[0] == "te" else "mid_block"
                if words[1] in numbered:
                    block = f"{numbered[words[1]]}.{words[2]}"
                squares[block] = squares.get(block, 0.0) + float((update**2).sum())
        blocks = {block: sqrt(square) for block, square in squares.items()}
        return {"whole": sqrt(sum(squares.values())), "blocks": blocks}

    def evaluation(self, variant: str, seed: int, step: int) -> Json:
        file, own = self.files[variant, seed, step], self.own[variant]
        return {
            "step": step,
            "loss": mean(self.loss(variant, seed, step, own, curve=False)),
            "curve_loss": mean(self.loss(variant, seed, step, own, curve=True)),
            "change": self.change(variant, seed, step, own) if step else None,
            "timesteps": len(file.timesteps[0]),
            "caption_sets": {
                name: mean([loss for row in rows for loss in row if not isnan(loss)])
                for name, rows in file.losses.items()
            },
        }

    def change(self, variant: str, seed: int, step: int, weights: Mapping[str, float]) -> Json:
        """The loss on the curve less the base model's."""
        before, after = (self.loss(variant, seed, each, weights, curve=True) for each in (0, step))
        return interval([[a - b for a, b in zip(after, before, strict=True)]], self.groups, 0.95)

    def min_snr(self, losses: list[Row], timesteps: list[list[int]]) -> float:
        """The mean by weight min(SNR, 5) / SNR, with Stable Diffusion's noise schedule."""
        alphas, product = [], 1.0
        for step in range(1000):
            product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * step / 999) ** 2
            alphas.append(product)
        total = weights = 0.0
        for row, times in zip(losses, timesteps, strict=True):
            for loss, timestep in zip(row, times, strict=True):
                snr = alphas[timestep] / (1 - alphas[timestep])
                weight = min(snr, 5) / snr
                total, weights = total + weight * loss, weights + weight
        return total / weights

    def caption_set(self, variant: str, seed: int, name: str) -> Json:
        before, after = (
            self.loss(variant, seed, step, {name: 1}, curve=True) for step in (0, self.last(variant, seed))
        )
        return {
            "loss": interval([after], self.groups, 0.95),
            "change": interval([[a - b for a, b in zip(after, before, strict=True)]], self.groups, 0.95),
        }

    def cost(self, variant: str, seed: int, step: int, name: str) -> list[tuple[str, float]]:
        """What another image's caption costs each image, with its group."""
        own, others = (self.loss(variant, seed, step, {each: 1}, curve=True) for each in (name, f"{name} shuffled"))
        return [(group, b - a) for group, a, b in zip(self.groups, own, others, strict=True)]

    def listening(self, variant: str, seed: int) -> Json | None:
        """Where no image keeps its caption when captions are shuffled."""
        base = self.files[variant, seed, 0].losses
        names = [name.removesuffix(" shuffled") for name in base if name.endswith(" shuffled")]
        if not names:
            return None
        most = max(names, key=lambda name: mean([cost for _, cost in self.cost(variant, seed, 0, name)]))
        of_base, own = (
            [cost for _, cost in self.cost(variant, seed, step, most)] for step in (0, self.last(variant, seed))
        )
        confidence = 1 - 0.05 / len(self.adapters)
        if sign(interval([of_base], self.groups, confidence)) != 1:
            return None
        less = [[a - b / 4 for a, b in zip(own, of_base, strict=True)]]
        return interval([own], self.groups, confidence) | {
            "set": most,
            "images": len(own),
            "base": mean(of_base),
            "flagged": sign(interval(less, self.groups, confidence)) == -1,
        }

    def best(self, variant: str, seed: int, chosen_on: Sequence[int]) -> int:
        """The earliest step above 0 that is not told from the lowest, on these images."""
        curve = {
            step: [self.loss(variant, seed, step, self.own[variant], curve=True)[n] for n in chosen_on]
            for step in self.steps(variant, seed)[1:]
        }
        groups = [self.groups[n] for n in chosen_on]
        lowest = min(curve, key=lambda step: mean(curve[step]))
        for step in curve:
            less = [[a - b for a, b in zip(curve[step], curve[lowest], strict=True)]]
            if step == lowest or (len(set(groups)) >= 6 and sign(interval(less, groups, 0.95)) == 0):
                return step
        raise AssertionError("the lowest is among them")

    # --- pairs ---

    def pair(self, a: str, b: str, seeds: Sequence[int], rows: int) -> Json:
        """All numbers of a row over these seeds, of as many rows that are read together, and its code."""
        level, own = 0.05 / rows, self.own
        confidence = 1 - level
        share = self.resolved["manifest"]["evaluation"]["equivalence_margin"]

        def of(variant: str, weights: Mapping[str, float], *, curve: bool = True, base: bool = False) -> Rows:
            return [
                self.loss(variant, seed, 0 if base else self.last(variant, seed), weights, curve=curve)
                for seed in seeds
            ]

        as_trained = minus(of(a, own[a], curve=False), of(b, own[b], curve=False))
        cells = {
            "as_trained": as_trained,
            "under_a": minus(of(a, own[a]), of(b, own[a])),
            "under_b": minus(of(a, own[b]), of(b, own[b])),
            "no_prompt": minus(of(a, {"": 1}), of(b, {"": 1})),
        }
        winner, loser = (a, b) if spread(as_trained, self.groups).mean <= 0 else (b, a)
        beats = {
            "loser_own": minus(of(winner, own[winner]), of(loser, own[loser])),
            "loser_same": minus(of(winner, own[winner]), of(loser, own[winner])),
            "loser_none": minus(of(winner, own[winner]), of(loser, {"": 1})),
        }
        if own[a] == own[b]:
            cells["under_a"] = cells["under_b"] = as_trained
            beats["loser_own"] = beats["loser_same"] = as_trained if winner == a else times(-1, as_trained)
        prompts = [of(a, weights, base=True) for weights in (own[a], own[b], {"": 1})]
        lowest = min(prompts, key=lambda rows: spread(rows, self.groups).mean)
        both = minus(times(0.5, of(a, own[a])), times(-0.5, of(b, own[b])))
        gain = minus(lowest, both)
        has_gain = spread(times(-1, gain), self.groups).below_zero(0.05)

        def within(rows: Rows) -> bool:
            above = minus(rows, times(share, gain))
            below = minus(times(-1, rows), times(share, gain))
            return has_gain and all(spread(test, self.groups).below_zero(level) for test in (above, below))

        def shown(rows: Rows) -> Json:
            return interval(rows, self.groups, confidence)

        base_as_trained = minus(of(a, own[a], curve=False, base=True), of(b, own[b], curve=False, base=True))
        changes = [minus(of(v, own[v], curve=False, base=True), of(v, own[v], curve=False)) for v in (a, b)]
        loss_unchanged = all(sign(interval(change, self.groups, 0.95)) == 0 for change in changes)
        found = {
            "cells": {name: shown(rows) for name, rows in cells.items()},
            "beats": {name: shown(rows) for name, rows in beats.items()},
            "gain": shown(gain),
            "base_as_trained": shown(base_as_trained),
            "best_as_trained": self.best_against_best(a, b, seeds, confidence),
            "margin": share * spread(gain, self.groups).mean if has_gain else None,
            "minimum_detectable": spread(as_trained, self.groups).minimum_detectable(confidence),
            "skew": self.skew(as_trained),
            "images": len(self.groups),
            "groups": len(set(self.groups)),
            "seeds": len(seeds),
        }
        inside = {name for name, rows in {**cells, **beats}.items() if within(rows)}
        return found | {"code": self.code(found, inside, loss_unchanged=loss_unchanged), "winner": winner}

    def code(self, found: Json, inside: set[str], *, loss_unchanged: bool) -> str:
        """The first row of the design's table that fits two adapters that are like for like and not the same."""
        cells, beats = ({name: sign(each) for name, each in found[kind].items()} for kind in ("cells", "beats"))
        s, alike = cells["as_trained"], [cells[name] for name in ("under_a", "under_b", "no_prompt")]
        if found["groups"] < 6:
            return "cannot_tell"
        if loss_unchanged and not any(alike):
            return "nothing_measurable"
        if s and "as_trained" in inside:
            return "different_within_margin"
        wins = all(beat == -1 for beat in beats.values()) and not inside & beats.keys()
        if s and wins:
            return "lower" if all(cell == s for cell in cells.values()) else "lower_but_depends"
        if s:
            return "lower_by_captions"
        if inside >= cells.keys():
            return "equivalent"
        return "equivalent_as_trained" if "as_trained" in inside else "cannot_tell"

    def best_against_best(self, a: str, b: str, seeds: Sequence[int], confidence: float) -> Json | None:
        names = sorted(set(self.groups))
        if len(names) < 2:
            return None
        halves = [[n for n, group in enumerate(self.groups) if names.index(group) % 2 == half] for half in (0, 1)]
        rows = []
        for seed in seeds:
            row = [0.0] * len(self.groups)
            for chosen_on, scored_on in (halves, halves[::-1]):
                curves = [self.loss(v, seed, self.best(v, seed, chosen_on), self.own[v], curve=True) for v in (a, b)]
                for n in scored_on:
                    row[n] = curves[0][n] - curves[1][n]
            rows.append(row)
        return interval(rows, self.groups, confidence)

    def skew(self, rows: Rows) -> float:
        images = [mean(values) for values in zip(*rows, strict=True)]
        means = [
            mean([value for value, group in zip(images, self.groups, strict=True) if group == name])
            for name in sorted(set(self.groups))
        ]
        return float(stats.skew(means))
