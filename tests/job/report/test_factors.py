"""What a pair differs in, and how a report speaks of it: in sentences, tables, charts and on the page."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from job import layout
from job.layout import Member
from job.report.build import build_comparison
from job.report.charts import curves, forest
from job.report.objective import trained_with
from job.report.publish import publish_report
from job.report.schema import Comparison, Pair, Verdict, report_schema
from job.report.settings import setting_words
from job.report.sides import beats_of, cells_of
from job.report.table import adapters, texts
from tests.job.report.cases import A, B
from tests.job.report.made_run import BASE, Design, MadeRun, around, make_run

# Losses of two adapters of equal captions, of which `b` is lower with a prompt and without.
LEVELS = {BASE: {"a": 1.0, "": 1.0}, "a": {"a": 0.8, "": 0.9}, "b": {"a": 0.7, "": 0.8}}
WITHOUT_A_PROMPT = LEVELS | {"a": {"a": 0.8, "": 0.7}, "b": {"a": 0.7, "": 0.8}}
SEVERAL_CAPTIONS = {name: of | {"b": of["a"]} for name, of in LEVELS.items()}


def run_of(folder: Path, b: dict[str, Any], levels: Any = LEVELS, **design: Any) -> MadeRun:
    """A run of `a` and of `b`, which has the captions of `a` unless it says otherwise."""
    variants = [A, {"name": "b", "captions": A["captions"], **b}]
    weights = {"weights": lambda member, step: f"{member.variant} {step}"}
    return make_run(folder, Design(variants, around(levels), **weights | design))


def only(found: Comparison) -> tuple[Pair, Verdict]:
    jsonschema.validate(found.model_dump(mode="json"), report_schema())
    pair = found.pairs[-1]
    assert pair.verdict is not None
    return pair, pair.verdict


def stored(made: MadeRun, **training: Any) -> Comparison:
    """The report once the settings of `b` are others, as of a version that has them."""
    identity = made.resolved.identity.model_dump(mode="json")
    identity["variants"]["b"]["training"] |= training
    made.edit(layout.RESOLVED, identity=identity)
    return build_comparison(made.run)


@pytest.mark.parametrize(
    ("b", "a_words", "b_words"),
    [
        ({"lora": {"rank": 16}}, "rank 8", "rank 16"),
        ({"training": {"optimizer": {"learning_rate": 2e-4}}}, "learning rate 0.0001", "learning rate 0.0002"),
        ({"training": {"max_grad_norm": None}}, "max grad norm 1", "max grad norm none"),
        ({"lora": {"kind": "dora"}}, "LoRA", "DoRA"),
        (
            {"lora": {"target_modules": "kohya"}},
            "the adapter of attention's layers",
            "the adapter of kohya's layers",
        ),
        (
            {"lora": {"target_modules": ["to_q", "to_v"]}},
            "the adapter of attention's layers",
            "the adapter of layers to_q, to_v",
        ),
        (
            {"lora": {"text_encoder": {}}},
            "the adapter without the text encoder",
            "the adapter with the text encoder",
        ),
        (
            {"lora": {"patterns": {"up_blocks.1": {"rank": 4}, "mid_block": {"alpha": 2.0}}}},
            "the adapter alike in all blocks",
            "the adapter with mid_block alpha 2 and up_blocks.1 rank 4",
        ),
        ({"training": {"schedule": {"name": "cosine"}}}, "schedule constant", "schedule cosine"),
    ],
)
def test_one_setting_is_what_the_two_are_called_by(
    tmp_path: Path, b: dict[str, Any], a_words: str, b_words: str
) -> None:
    found = build_comparison(run_of(tmp_path, b).run)
    pair, verdict = only(found)
    assert (len(pair.factor), verdict.code, verdict.winner) == (1, "lower", "b")
    assert verdict.sentence.startswith(
        f"Of these adapters (seed 1), {b_words} (b) has a lower denoising loss than {a_words} (a), however they are "
        "prompted: -0.1 ["
    )
    assert verdict.sentence.endswith("They share their captions, so that prompted as trained they are prompted alike.")
    assert found.verdict.headline == (
        f"Of these adapters, {b_words} (b) fits unseen images better than {a_words} (a), however they are prompted."
    )
    assert "With fewer than 3 seeds, a verdict is that of these adapters, not of what they differ in." in found.notes


def test_a_text_encoders_own_setting_is_called_its(tmp_path: Path) -> None:
    """Its rate changes nothing of what an adapter begins with, so unlike beginnings withhold the verdict."""
    a, b = ({"lora": {"text_encoder": {"learning_rate": rate}}} for rate in (1e-5, 2e-5))
    variants = [A | a, {"name": "b", "captions": A["captions"]} | b]
    made = make_run(tmp_path, Design(variants, around(LEVELS)))
    pair, verdict = only(build_comparison(made.run))
    assert pair.factor == ["lora.text_encoder.learning_rate"]
    words = ("the text encoder's learning rate 2e-05 (b)", "the text encoder's learning rate 1e-05 (a)")
    assert all(each in verdict.sentence for each in words)
    made.edit(f"{layout.checkpoint(Member('b', 1), 4)}/{layout.COMMIT_NAME}", initial_weights_sha256="0" * 64)
    assert only(build_comparison(made.run))[0].withheld == ["initial_weights_sha256"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lora.rank", 16, "rank 16"),
        ("training.optimizer.name", "lion", "optimizer lion"),
        ("training.schedule.warmup_steps", 5, "warmup steps 5"),
        ("training.schedule", {"name": "cosine", "warmup_steps": 5}, "schedule cosine"),
        ("training.noise.offset", 0.05, "noise offset 0.05"),
        ("training.noise.multires", None, "no multires noise"),
        (
            "training.noise.multires",
            {"discount": 0.3, "iterations": 6},
            "multires noise with discount 0.3 and iterations 6",
        ),
        ("training.noise.multires.iterations", 6, "iterations 6"),
        ("training.timesteps.from", 200, "timesteps from 200"),
        ("training.weighting.gamma", 5.0, "weighting gamma 5"),
        ("training.loss.schedule", "snr", "loss schedule snr"),
        ("training.ema", None, "no EMA"),
        ("training.ema", {"decay": 0.99}, "EMA with decay 0.99"),
        ("training.ema.decay", 0.99, "EMA decay 0.99"),
    ],
)
def test_a_setting_is_called_what_it_is(key: str, value: object, said: str) -> None:
    assert setting_words(key, value) == said


def test_over_seeds_it_speaks_of_the_settings(tmp_path: Path) -> None:
    _, verdict = only(build_comparison(run_of(tmp_path, {"lora": {"rank": 16}}, seeds=(1, 2, 3)).run))
    assert verdict.sentence.startswith("Of these settings (over 3 seeds), rank 16 (b) has a lower denoising loss than")


def test_without_a_prompt_the_other_is_as_good(tmp_path: Path) -> None:
    pair, verdict = only(build_comparison(run_of(tmp_path, {"lora": {"rank": 16}}, WITHOUT_A_PROMPT).run))
    assert verdict.code == "lower_by_captions"
    assert "), but rank 8 is not found to be worse without a prompt." in verdict.sentence
    assert list(cells_of(pair).values()) == ["as each was trained", "without a prompt"]


def test_what_is_under_equal_captions_is_shown_once(tmp_path: Path) -> None:
    found = build_comparison(run_of(tmp_path, {"lora": {"rank": 16}}).run)
    pair, _ = only(found)
    assert pair.cells is not None
    assert pair.cells.under_a == pair.cells.under_b == pair.cells.as_trained
    assert list(cells_of(pair)) == ["as_trained", "no_prompt"]
    assert list(beats_of(pair, "b")) == ["loser_own", "loser_none"]
    figure = forest(found)
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["as trained", "no prompt"]


def test_pairs_with_and_without_equal_captions_stand_in_one_chart(tmp_path: Path) -> None:
    levels = SEVERAL_CAPTIONS | {"c": {"a": 0.75, "b": 0.75, "": 0.85}}
    variants = [A, B, {**A, "name": "c", "lora": {"rank": 16}}]
    found = build_comparison(make_run(tmp_path, Design(variants, around(levels))).run)
    assert [pair.factor for pair in found.pairs] == [["captions"], ["lora.rank"], ["captions", "lora.rank"]]
    figure = forest(found)
    assert figure is not None
    four = ["as trained", "a's captions", "b's captions", "no prompt"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [*four, "as trained", "no prompt", "as trained", "b's captions", "c's captions", "no prompt"]
    rows = [round(row) for row in figure.axes[0].get_yticks()]
    assert rows == [1, 2, 3, 4, 7, 8, 11, 12, 13, 14]


def test_several_differences_are_not_one_question(tmp_path: Path) -> None:
    made = run_of(tmp_path, {**B, "lora": {"rank": 16, "alpha": 16}}, SEVERAL_CAPTIONS, seeds=(1, 2, 3))
    found = build_comparison(made.run)
    pair, verdict = only(found)
    assert pair.factor == ["captions", "lora.alpha", "lora.rank"]
    assert pair.values == {"lora.alpha": (8.0, 16.0), "lora.rank": (8, 16)}
    assert verdict.sentence.startswith("Of these variants (over 3 seeds), b has a lower denoising loss than a, however")
    said = "hey differ in captions, lora.alpha and lora.rank, so what made it cannot be told."
    assert verdict.sentence.endswith(f"T{said}")
    assert found.verdict.headline.endswith(f"however they are prompted; t{said}")


def test_the_study_is_about_one_question_where_it_has_one_and_begins_with_its_best(tmp_path: Path) -> None:
    """Of a sweep, the adapter that is lowest often differs from the first in every setting."""
    levels = {name: {"a": level, "": level + 0.1} for name, level in zip("abcd", (0.8, 0.75, 0.7, 0.6), strict=True)}
    rate = {"training": {"optimizer": {"learning_rate": 2e-4}}}
    others = [("b", {"lora": {"rank": 16}}), ("c", rate), ("d", {"lora": {"rank": 16}, **rate})]
    variants = [A, *({"name": name, "captions": A["captions"], **own} for name, own in others)]
    design = Design(variants, around({BASE: LEVELS[BASE]} | levels))
    run = make_run(tmp_path, design).run
    found = publish_report(run).verdict
    assert found.headline.startswith(
        "Of these adapters, learning rate 0.0002 (c) fits unseen images better than learning rate 0.0001 (a)"
    )
    assert "learning rate 0.0002 (c) has a lower denoising loss than learning rate 0.0001 (a)" in found.sentence
    assert ["cannot be told" in other for other in found.others] == [False] * 3 + [True] * 2
    assert (found.recommended.variant, found.recommended.seed) == ("d", 1)
    page = (run.read(layout.PAGE) or b"").decode()  # so many sentences would hide the table
    assert page.index("<summary>The same of all other pairs") < page.index('data-path="verdict.others[0]"')


def test_what_comes_with_a_name_is_no_difference_of_its_own(tmp_path: Path) -> None:
    """An optimizer or a weighting is one choice, unless one sets more than that."""
    made = run_of(tmp_path, {"training": {"schedule": {"name": "cosine"}}})
    assert only(build_comparison(made.run))[0].factor == ["training.schedule.name"]
    weighted = stored(made, schedule={"name": "constant", "warmup_steps": 0}, weighting={"name": "min_snr", "gamma": 5})
    assert only(weighted)[0].factor == ["training.weighting.name"]
    made = run_of(tmp_path / "more", {"training": {"schedule": {"name": "cosine", "warmup_steps": 2}}})
    assert only(build_comparison(made.run))[0].factor == ["training.schedule.name", "training.schedule.warmup_steps"]


@pytest.mark.parametrize(("refused", "withheld"), [(2, False), (3, True)])
def test_unequal_refused_updates_are_noted_and_beyond_a_hundredth_withhold(
    tmp_path: Path, refused: int, withheld: bool
) -> None:
    settings = ["training.steps=200", "evaluation.every=200"]
    made = run_of(tmp_path, {"lora": {"rank": 16}}, settings=settings, skipped={Member("b", 1): refused})
    found = build_comparison(made.run)
    _, verdict = only(found)
    assert [member.skipped_steps for member in found.members] == [0, refused]
    counts = f"with seed 1, 0 and {refused} of their updates were refused"
    assert f"a and b: {counts}, since losses or gradients were not finite." in found.notes
    assert (verdict.code == "withheld") == withheld
    if withheld:
        why = f"a and b cannot be compared: {counts}, which is more than 1% of the steps apart; no verdict."
        assert verdict.sentence == why
    else:
        assert f"W{counts[1:]}." in verdict.sentence


def test_an_adapter_that_stops_earlier_is_compared_at_its_own_end(tmp_path: Path) -> None:
    """What is refused is counted up to each one's last step, and each curve ends at its own."""
    made = run_of(tmp_path, {"training": {"steps": 8}})
    found = build_comparison(made.run)
    pair, verdict = only(found)
    assert (pair.factor, pair.like_for_like, verdict.code) == (["training.steps"], True, "lower")
    assert "steps 8 (b) has a lower denoising loss than steps 4 (a)" in verdict.sentence
    assert [member.steps for member in found.members] == [4, 8]
    assert [[point.step for point in member.validation] for member in found.members] == [[0, 2, 4], [0, 2, 4, 6, 8]]
    assert [row[-1].partition(" of ")[2] for row in texts(adapters(found))] == ["4", "8"]
    lines = [line.get_xdata() for line in curves(found).axes[0].get_lines()]
    assert [list(steps) for steps in lines] == [[0, 2, 4], [0, 2, 4, 6, 8]]
    assert "4 or 8 steps" in found.verdict.rests_on


OBJECTIVES: dict[str, tuple[dict[str, Any], str | None]] = {
    "an earlier version": ({"steps": 3}, None),
    "plain": (
        {
            "loss": {"name": "mse"},
            "weighting": {"name": "none"},
            "noise": {"offset": 0, "multires": None, "input_perturbation": 0.0},
            "timesteps": {"from": 0, "to": 1000},
        },
        None,
    ),
    "min-SNR": ({"weighting": {"name": "min_snr", "gamma": 5.0}}, "min-SNR weighting (gamma 5)"),
    "huber": (
        {"loss": {"name": "huber", "c": 0.1, "schedule": "snr"}, "weighting": {"name": "none"}},
        "Huber loss (c 0.1, schedule snr)",
    ),
    "noise": ({"noise": {"offset": 0.05, "input_perturbation": 0.1}}, "noise offset 0.05, input perturbation 0.1"),
    "multires": (
        {"noise": {"multires": {"iterations": 6, "discount": 0.3}}},
        "multires noise (iterations 6, discount 0.3)",
    ),
    "timesteps": ({"timesteps": {"from": 0, "to": 500}}, "timesteps from 0 to 500"),
    "two": ({"loss": {"name": "l1"}, "weighting": {"name": "debiased"}}, "debiased weighting, L1 loss"),
    "a name of another version": ({"weighting": {"name": "cosmap"}}, "cosmap weighting"),
    "other types": ({"loss": 3, "weighting": None, "noise": [1], "timesteps": "all"}, None),
}


@pytest.mark.parametrize(("training", "words"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_what_an_adapter_was_trained_with_is_told_of_its_settings(training: dict[str, Any], words: str | None) -> None:
    assert trained_with(training) == words


def test_it_is_told_beside_its_losses(tmp_path: Path) -> None:
    made = run_of(tmp_path, {"lora": {"rank": 16}})
    plain = build_comparison(made.run)
    assert "trained with" not in adapters(plain).columns
    assert not any("scored by" in text for text in [*plain.notes, plain.verdict.sentence])
    found = stored(made, weighting={"name": "min_snr", "gamma": 5})
    assert [member.trained_with for member in found.members] == [None, "min-SNR weighting (gamma 5)"]
    table = adapters(found)
    assert table.columns[-1] == "trained with"
    assert [row[-1] for row in texts(table)] == ["plain MSE", "min-SNR weighting (gamma 5)"]
    _, verdict = only(found)
    assert "Trained: b with min-SNR weighting (gamma 5); scored by plain MSE on plain noise." in verdict.sentence
    assert any(
        note.startswith("b was trained with min-SNR weighting (gamma 5); all are scored") for note in found.notes
    )


def test_the_page_and_the_card_say_it_too(tmp_path: Path) -> None:
    """Of a report that was published before, too: it is made anew from the same run."""
    made = run_of(tmp_path, {})
    stored(made, weighting={"name": "min_snr", "gamma": 5})
    publish_report(made.run)
    page, card, summary = (
        (made.run.read(key) or b"").decode() for key in (layout.PAGE, layout.MODEL_CARD, layout.SUMMARY)
    )
    assert "Their captions are equal, so under the captions of the one" in page
    assert "captions alone do" not in page
    assert "b&#39;s captions" not in page
    for text in (page, card, summary):
        assert "weighting min_snr (b) has a lower denoising loss than weighting none (a)" in text.replace("\\", "")
        assert "min-SNR weighting (gamma 5)" in text.replace("\\", "")
    assert "| training.weighting.name | a: none, b: min_snr |" in card.replace("\\", "")
