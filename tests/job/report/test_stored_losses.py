"""What a report says of adapters of which the answer is known: of losses that real trainings left, see `planted/`."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.layout import Member
from job.report.factors import factors_of
from job.report.members import read_member
from job.report.pairs import compare_pairs
from job.report.pictures import study_pictures
from job.report.schema import Pair
from lora_engine.dataset.randomness import curve_columns
from lora_engine.evaluation.verdicts import WINS
from lora_engine.records import CaptionRecord
from tests.job.report.made_run import Design, Floats, Losses, MadeRun, Scored, image_id, make_run
from tests.job.report.planted.take import BASE, read

IMAGES, CURVE, FINAL = 24, 4, 8
SETTINGS = [
    "training.steps=1",
    "evaluation.every=1",
    f"evaluation.timesteps={CURVE}",
    f"evaluation.final_timesteps={FINAL}",
]
COLUMNS = np.stack([curve_columns(image_id(number), CURVE, FINAL) for number in range(IMAGES)])
SEEDS = range(1, 10)

BLIP = {"strategy": "existing"}  # other texts at every image, as those of the captioner are
SHUFFLED = {"strategy": "existing", "style_hints": "of another"}
VANILLA = {"strategy": "constant", "text": "a tattoo design"}
PLAIN = {"strategy": "constant", "text": "a drawing"}


def at_timesteps(means: Floats) -> Floats:
    """Losses [N, T] that have these means [N, 2] over all timesteps and over the curve's, which are half of them."""
    whole, on_curve = means[:, :1], means[:, 1:]
    losses = np.tile(2 * whole - on_curve, (1, FINAL))
    np.put_along_axis(losses, COLUMNS, np.tile(on_curve, (1, CURVE)), axis=1)
    return losses


def stored(run: str, adapter_of: Callable[[Scored], str], component_of: Mapping[str, str]) -> Losses:
    """The losses of a stored run.

    Args:
        adapter_of: names the stored adapter for one of the made run's.
        component_of: the made run's components to the stored ones.
    """
    losses, names = read(run)

    def found(scored: Scored) -> Floats:
        adapter = BASE if scored.variant is None else adapter_of(scored)
        component = names["components"].index(component_of.get(scored.component, scored.component))
        return at_timesteps(losses[names["adapters"].index(adapter), component])

    return found


def made_of(folder: Path, variants: Sequence[Mapping[str, Any]], losses: Losses, **more: Any) -> MadeRun:
    design = Design(variants, losses, groups=range(IMAGES), settings=SETTINGS, earlier=True, **more)
    return make_run(folder, design)


def compared(made: MadeRun) -> tuple[list[Pair], list[Pair]]:
    """The rows with a verdict: of each pair as if the study compared no other, and of the study of all pairs."""
    run, held_out, resolved = made.run, made.held_out, made.resolved
    pictures = study_pictures(run)
    members = [
        read_member(run, resolved, held_out, pack.index, member, pictures)
        for pack in resolved.packs
        for member in pack.members
    ]
    captions = {
        name: run.read_rows(f"data/captions/{name}.jsonl", CaptionRecord) or [] for name in resolved.caption_sets
    }
    factors = factors_of(resolved, held_out, captions)

    def rows(pairs: tuple[tuple[str, str], ...]) -> list[Pair]:
        found = compare_pairs(resolved, replace(held_out, pairs=pairs), members, factors, pictures)
        return [row for row in found if row.verdict is not None]

    return [row for pair in held_out.pairs for row in rows((pair,))], rows(held_out.pairs)


def codes(rows: Sequence[Pair]) -> Counter[str]:
    return Counter(row.verdict.code for row in rows if row.verdict)


def study(folder: Path, adapter_of: Callable[[Scored], str], **more: Any) -> MadeRun:
    """A run of the planted study's four variants."""
    captions = {"blip": BLIP, "shuffled": SHUFFLED, "vanilla": VANILLA, "plain": PLAIN}
    variants = [{"name": name, "captions": each} for name, each in captions.items()]
    return made_of(folder, variants, stored("study", adapter_of, {name: name for name in captions}), **more)


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3]])
@pytest.mark.parametrize("moved", [True, False])
def test_of_adapters_that_are_still_the_base_nothing_is_measurable(
    tmp_path: Path, seeds: list[int], moved: bool
) -> None:
    """Though captions that say more lower the base's own loss, and so theirs."""
    more = {} if moved else {"weights": lambda *_: None}
    for rows in compared(study(tmp_path, lambda _: BASE, seeds=seeds, **more)):
        assert codes(rows) == {"nothing_measurable": 6}
        assert any(
            row.cells and row.cells.as_trained.high is not None and row.cells.as_trained.high < 0 for row in rows
        )


def test_weights_that_never_moved_have_no_verdict_for_the_losses_of_trained_ones(tmp_path: Path) -> None:
    made = study(tmp_path, lambda at: f"{at.variant}-seed-{at.seed}", seeds=[1, 2, 3], weights=lambda *_: None)
    for rows in compared(made):
        assert codes(rows) == {"nothing_measurable": 6}


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3]])
def test_equal_weights_are_identical_under_any_captions(tmp_path: Path, seeds: list[int]) -> None:
    made = study(
        tmp_path, lambda at: f"blip-seed-{at.seed}", seeds=seeds, weights=lambda member, _: f"seed {member.seed}"
    )
    for rows in compared(made):
        assert codes(rows) == {"identical": 6}


def test_equal_weights_are_identical_where_two_names_have_one_caption(tmp_path: Path) -> None:
    variants = [{"name": name, "captions": VANILLA} for name in ("one", "two")]
    losses = stored("study", lambda at: f"vanilla-seed-{at.seed}", {"one": "vanilla"})
    made = made_of(tmp_path, variants, losses, seeds=[1, 2, 3], weights=lambda member, _: f"seed {member.seed}")
    for rows in compared(made):
        assert codes(rows) == {"identical": 1}


def test_another_seed_of_one_training_hardly_ever_wins(tmp_path: Path) -> None:
    """Nine trainings of each of two strategies, all 36 pairs of either compared as a study of one seed would."""
    alone, together = [], []
    for strategy, captions in (("blip", BLIP), ("vanilla", VANILLA)):
        variants = [{"name": f"v{seed}", "captions": captions, "seed_offset": 100 * (seed - 1)} for seed in SEEDS]

        def adapter(scored: Scored, strategy: str = strategy) -> str:
            return f"{strategy}-seed-{scored.variant and scored.variant[1:]}"

        # `pairs` is asked for, since nine variants would be compared with the first alone.
        losses = stored("nine", adapter, {"v1": strategy})
        design = Design(
            variants,
            losses,
            groups=range(IMAGES),
            settings=[*SETTINGS, "evaluation.pairs=all"],
            earlier=True,
        )
        one, all_of_them = compared(make_run(tmp_path / strategy, design))
        alone += one
        together += all_of_them
    print(codes(alone), codes(together))
    assert len(alone) == len(together) == 72
    assert {tuple(row.factor) for row in alone} == {("seed_offset",)}
    assert all("this is the study's noise floor" in row.verdict.sentence for row in alone if row.verdict)
    for rows in (alone, together):
        assert sum(codes(rows)[code] for code in WINS) <= 2


def test_the_planted_study_has_the_winner_that_was_planted(tmp_path: Path) -> None:
    for rows in compared(study(tmp_path, lambda at: f"{at.variant}-seed-{at.seed}", seeds=[1, 2, 3])):
        verdicts = {(row.a, row.b): row.verdict for row in rows}
        for pair, verdict in verdicts.items():
            print(pair, verdict)
        assert len(verdicts) == 6
        of_both = verdicts["blip", "shuffled"]
        assert of_both is not None
        assert of_both.winner == "blip"
        assert not any(verdict and verdict.winner == "shuffled" for verdict in verdicts.values())


def test_the_means_are_those_that_were_stored(tmp_path: Path) -> None:
    """The way from a stored mean over a row of timesteps and back loses nothing but rounding."""
    losses, names = read("study")
    made = study(tmp_path, lambda at: f"{at.variant}-seed-{at.seed}")
    member = read_member(
        made.run, made.resolved, made.held_out, 0, Member("vanilla", 1), study_pictures(made.run)
    ).report
    adapter, component = names["adapters"].index("vanilla-seed-1"), names["components"].index("vanilla")
    assert member.final_loss == pytest.approx(losses[adapter, component, :, 0].mean(), rel=1e-6)
    assert member.caption_sets["blip"].loss.mean == pytest.approx(losses[adapter, 0, :, 1].mean(), rel=1e-6)
    assert member.base_loss == pytest.approx(losses[0, component, :, 0].mean(), rel=1e-6)
