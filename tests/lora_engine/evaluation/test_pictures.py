"""Measures of sets of pictures: their values by hand, what they are paired by, and why some cannot be had."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from lora_engine.evaluation import clip_score
from lora_engine.evaluation.line_art import Measures, distances
from lora_engine.evaluation.pictures import (
    FEWEST_PICTURES,
    MEASURES,
    PictureSet,
    References,
    differences,
    estimates,
)
from lora_engine.evaluation.statistics import Estimate, estimate, simultaneous
from tests.lora_engine.evaluation.synthetic_pictures import world

LINE_ART = tuple(field.name for field in fields(Measures))
CLIP = ("clip_score", "clip_retrieval", "diversity", "similarity", "kid", "cmmd")
HELD_OUT = ("line_art_distance", "line_art_gap", "similarity", "kid", "cmmd")
SHARES = ("clip_retrieval",)  # which vary at least as much as a share does
NO_CLIP = "no CLIP model is given: evaluation.samples.clip"

WORLD = world(0)
REFERENCES = WORLD.references
A, B = WORLD.sets(prompts=7, seeds=3, shifts=(0.2, 0.6), own=0.5)
A2, B2 = WORLD.sets(prompts=7, seeds=3, shifts=(0.1, 0.3), own=0.5)  # of another training seed


def measured(found: Mapping[str, Estimate | str]) -> dict[str, Estimate]:
    """All of them, of which each could be had."""
    assert tuple(found) == MEASURES
    return {name: one for name, one in found.items() if not isinstance(one, str)}


def reasons(found: Mapping[str, Estimate | str]) -> dict[str, str]:
    assert tuple(found) == MEASURES
    return {name: one for name, one in found.items() if isinstance(one, str)}


def without_clip(pictures: PictureSet) -> PictureSet:
    return replace(pictures, cosines=None, embeddings=None)


def assert_alike(one: Mapping[str, Estimate], other: Mapping[str, Estimate]) -> None:
    for name in MEASURES:
        assert astuple(one[name]) == pytest.approx(astuple(other[name]), rel=1e-9, abs=1e-12), name


def test_the_measures_are_named_in_their_order() -> None:
    assert MEASURES == (
        "clip_score",
        "clip_retrieval",
        "border_whiteness",
        "ink_coverage",
        "bimodality",
        "contrast",
        "stroke_width",
        "colourfulness",
        "line_art_distance",
        "line_art_training_distance",
        "line_art_gap",
        "diversity",
        "similarity",
        "kid",
        "cmmd",
    )


def test_values_are_those_of_each_measures_own_words() -> None:
    found = {name: one.mean for name, one in measured(estimates([A], REFERENCES)).items()}
    assert A.cosines is not None
    assert A.embeddings is not None
    assert REFERENCES.held_out is not None
    assert REFERENCES.held_out_embeddings is not None
    own = A.prompts.tolist()
    assert found["clip_score"] == pytest.approx(clip_score.score(A.cosines, own))
    assert found["clip_retrieval"] == pytest.approx(clip_score.retrieval(A.cosines, own))
    assert [found[name] for name in LINE_ART] == pytest.approx(A.line_art.mean(axis=0).tolist())
    assert REFERENCES.training is not None
    size = len(REFERENCES.held_out)
    parts = [REFERENCES.training[at : at + size] for at in range(0, len(REFERENCES.training) - size + 1, size)]
    to_held_out, to_training, *to_parts = (
        np.mean([wasserstein_distance(A.line_art[:, at], images[:, at]) for at in range(6)])
        for images in (REFERENCES.held_out, REFERENCES.training, *parts)
    )
    assert found["line_art_distance"] == pytest.approx(to_held_out)
    assert found["line_art_training_distance"] == pytest.approx(to_training)
    assert found["line_art_gap"] == pytest.approx(to_held_out - np.mean(to_parts))
    cosines = A.embeddings @ A.embeddings.T
    of_prompts = [
        np.mean([1 - cosines[i, j] for i, j in combinations(np.flatnonzero(A.prompts == prompt), 2)])
        for prompt in range(7)
    ]
    assert found["diversity"] == pytest.approx(np.mean(of_prompts))
    assert found["similarity"] == pytest.approx((A.embeddings @ REFERENCES.held_out_embeddings.T).mean())
    assert 0 < found["kid"] < 10 * found["cmmd"]  # test_distribution.py says how much


def test_the_distance_is_that_of_the_report() -> None:
    assert REFERENCES.held_out is not None
    by_measure = distances([Measures(*row) for row in A.line_art], [Measures(*row) for row in REFERENCES.held_out])
    found = measured(estimates([A], REFERENCES))["line_art_distance"]
    assert found.mean == pytest.approx(sum(by_measure.values()) / 6)


def test_a_picture_of_a_negative_cosine_scores_0() -> None:
    assert A.cosines is not None
    negative = replace(A, cosines=np.where(np.arange(21)[:, np.newaxis] < 3, -0.5, A.cosines))
    scores = 100 * A.cosines[np.arange(21), A.prompts]
    assert measured(estimates([negative], REFERENCES))["clip_score"].mean == pytest.approx(scores[3:].sum() / 21)


def test_measures_of_single_pictures_have_the_interval_of_any_mean() -> None:
    found = measured(estimates([A, B], REFERENCES))
    groups = A.prompts.astype(str)
    for at, name in enumerate(LINE_ART):
        assert found[name] == estimate(np.array([A.line_art[:, at], B.line_art[:, at]]), groups)
    assert (found["contrast"].seeds, found["contrast"].images, found["contrast"].groups) == (2, 21, 7)
    assert (found["diversity"].seeds, found["diversity"].images, found["diversity"].groups) == (2, 7, 7)
    assert (found["kid"].seeds, found["kid"].images, found["kid"].groups) == (2, 21, 7)


def test_the_interval_of_a_distance_is_that_of_leaving_out_a_prompt() -> None:
    pairs = [(A.take(A.prompts != prompt), B.take(B.prompts != prompt)) for prompt in range(7)]
    found = measured(differences([A], [B], REFERENCES))
    without = [measured(differences([a], [b], REFERENCES)) for a, b in pairs]
    for name in MEASURES:
        means = np.array([one[name].mean for one in without])
        expected = 6 / 7 * np.square(means - means.mean()).sum()
        if name in SHARES:
            assert (found[name].images_variance or 0) >= expected * (1 - 1e-9), name
        else:
            assert found[name].images_variance == pytest.approx(expected), name


def test_a_difference_is_that_of_the_estimates() -> None:
    of_a, of_b = measured(estimates([A], REFERENCES)), measured(estimates([B], REFERENCES))
    for name, found in measured(differences([A], [B], REFERENCES)).items():
        assert found.mean == pytest.approx(of_a[name].mean - of_b[name].mean, abs=1e-12), name


def with_fitting(one: PictureSet, fitting: Sequence[bool]) -> PictureSet:
    """The pictures with these as the ones that fit their own prompt best."""
    own = np.eye(7)[one.prompts]
    return replace(one, cosines=np.where(np.array(fitting)[:, np.newaxis], own, 1 - own))


def test_of_pictures_that_all_fit_it_is_not_certain_that_all_would() -> None:
    """The variance is that of a share with one further prompt on either side, worked out by hand."""
    one_each = A.take(A.seeds == 0)
    for fitting, mean in (([True] * 7, 1.0), ([False] * 7, 0.0)):
        found = measured(estimates([with_fitting(A, np.repeat(fitting, 3).tolist())], REFERENCES))["clip_retrieval"]
        assert found.mean == mean
        assert found.images_variance == pytest.approx(8 / 9 * 1 / 9 / 7)
        alone = estimates([with_fitting(one_each, fitting)], REFERENCES)["clip_retrieval"]
        assert isinstance(alone, Estimate)
        assert alone.images_variance == found.images_variance


def test_a_share_that_varies_more_than_that_keeps_its_variance() -> None:
    """Pictures of one prompt that all fit or all do not, which vary as much as prompts can."""
    fitting = np.repeat([True, True, True, True, False, False, False], 3).tolist()
    found = measured(estimates([with_fitting(A, fitting)], REFERENCES))["clip_retrieval"]
    assert found.mean == pytest.approx(4 / 7)
    assert found.images_variance == pytest.approx(4 / 7 * 3 / 7 / 6)  # that of the mean of seven zeros and ones


def test_a_difference_of_shares_varies_by_how_many_pictures_it_is_seen_on() -> None:
    """Seven prompts agree, or one of the pictures fits in one set alone, or every picture does."""
    everything = [True] * 21
    for others, differing in ((everything, 0.0), ([False, *everything[1:]], 1 / 21), ([False] * 21, 1.0)):
        pair = with_fitting(A, everything), with_fitting(B, others)
        found = measured(differences([pair[0]], [pair[1]], REFERENCES))["clip_retrieval"]
        share = (7 * differing + 1) / 9
        assert found.mean == pytest.approx(differing)
        assert found.images_variance == pytest.approx(share * (1 - share) / 7)
        back = measured(differences([pair[1]], [pair[0]], REFERENCES))["clip_retrieval"]
        assert back.images_variance == found.images_variance


def test_of_one_prompt_a_share_has_no_variance() -> None:
    one = A.take(A.prompts == 0)
    found = estimates([with_fitting(one, [True] * 3)], REFERENCES)["clip_retrieval"]
    assert isinstance(found, Estimate)
    assert (found.mean, found.images_variance) == (1, None)


def test_differences_are_the_negative_of_those_the_other_way_round() -> None:
    forth = measured(differences([A, A2], [B, B2], REFERENCES))
    back = measured(differences([B, B2], [A, A2], REFERENCES))
    for name in MEASURES:
        skew = forth[name].skew
        turned = replace(forth[name], mean=-forth[name].mean, skew=None if skew is None else -skew)
        assert astuple(back[name]) == pytest.approx(astuple(turned), rel=1e-9, abs=1e-12), name


def test_a_set_does_not_differ_from_itself() -> None:
    for name, found in measured(differences([A, B], [A, B], REFERENCES)).items():
        interval = found.interval(0.95)
        if name in SHARES:
            assert interval.mean == 0
            assert interval.high == pytest.approx(-(interval.low or 0))
        else:
            assert (interval.mean, interval.low, interval.high) == (0, 0, 0), name


def test_the_order_of_pictures_and_of_training_seeds_does_not_matter() -> None:
    shuffle = np.random.default_rng(1).permutation(21)
    assert_alike(measured(estimates([A], REFERENCES)), measured(estimates([A.take(shuffle)], REFERENCES)))
    in_order = measured(differences([A, A2], [B, B2], REFERENCES))
    assert_alike(in_order, measured(differences([A.take(shuffle), A2], [B.take(shuffle[::-1]), B2], REFERENCES)))
    assert_alike(in_order, measured(differences([A2, A], [B2, B], REFERENCES)))


def test_only_what_all_sets_have_is_compared() -> None:
    some, others = A.take(np.arange(21) % 4 != 0), B.take(np.arange(21) % 5 != 1)
    both = (np.arange(21) % 4 != 0) & (np.arange(21) % 5 != 1)
    assert_alike(
        measured(differences([some], [others], REFERENCES)),
        measured(differences([A.take(both)], [B.take(both)], REFERENCES)),
    )
    assert_alike(
        measured(estimates([some, others], REFERENCES)),
        measured(estimates([A.take(both), B.take(both)], REFERENCES)),
    )


def test_more_pictures_that_are_the_same_tell_no_more() -> None:
    """A prompt's pictures are not independent: it is prompts that are counted."""

    def doubled(one: PictureSet) -> PictureSet:
        twice = one.take(np.tile(np.arange(21), 2))
        return replace(twice, seeds=twice.seeds + np.repeat([0, 100], 21))

    once = measured(differences([A], [B], REFERENCES))
    twice = measured(differences([doubled(A)], [doubled(B)], REFERENCES))
    for name in ("clip_score", "clip_retrieval", *LINE_ART, "line_art_distance", "line_art_gap", "similarity"):
        assert astuple(twice[name].interval(0.95)) == pytest.approx(astuple(once[name].interval(0.95))), name


def test_two_prompts_are_the_least_for_an_interval() -> None:
    for prompts, is_known in ((1, False), (2, True)):
        few = WORLD.sets(prompts, 9, (0.0, 0.4))
        for found in (estimates(few[:1], REFERENCES), differences(few[:1], few[1:], REFERENCES)):
            for name, one in found.items():
                if isinstance(one, str):
                    assert (name, prompts, one) == ("clip_retrieval", 1, "there is one prompt only")
                else:
                    assert (one.interval(0.95).low is not None) == is_known, name


def test_a_subset_has_all_that_was_measured_of_its_pictures() -> None:
    mask = np.arange(21) % 2 == 0
    some = A.take(mask)
    assert A.cosines is not None
    assert A.embeddings is not None
    np.testing.assert_array_equal(some.prompts, A.prompts[mask])
    np.testing.assert_array_equal(some.seeds, A.seeds[mask])
    np.testing.assert_array_equal(some.line_art, A.line_art[mask])
    np.testing.assert_array_equal(some.cosines, A.cosines[mask])
    np.testing.assert_array_equal(some.embeddings, A.embeddings[mask])
    assert (without_clip(A).take(mask).cosines, without_clip(A).take(mask).embeddings) == (None, None)


def test_without_a_clip_model_line_art_is_measured() -> None:
    no_clip = replace(REFERENCES, held_out_embeddings=None)
    found = estimates([without_clip(A)], no_clip)
    assert reasons(found) == dict.fromkeys(CLIP, NO_CLIP)
    assert reasons(differences([without_clip(A)], [without_clip(B)], no_clip)) == dict.fromkeys(CLIP, NO_CLIP)
    # of a and of b alike
    assert reasons(differences([A], [without_clip(B)], REFERENCES)) == dict.fromkeys(CLIP, NO_CLIP)


def test_pictures_of_an_earlier_version_have_no_embeddings() -> None:
    found = estimates([replace(A, embeddings=None)], REFERENCES)
    needed = ("diversity", "similarity", "kid", "cmmd")
    assert reasons(found) == dict.fromkeys(
        needed, "the pictures' CLIP embeddings are not kept: an earlier version drew them, or the file is lost"
    )


def test_held_out_images_of_an_earlier_version_are_not_measured() -> None:
    earlier = References(None, REFERENCES.training, None)
    not_measured = "an earlier version did not measure the held-out images"
    assert reasons(estimates([A], earlier)) == dict.fromkeys(HELD_OUT, not_measured)
    only_line_art = replace(REFERENCES, held_out_embeddings=None)
    other_clip = "the images have no embeddings by this CLIP model: evaluation.samples.clip of the run is another"
    assert reasons(estimates([A], only_line_art)) == dict.fromkeys(("similarity", "kid", "cmmd"), other_clip)


def test_where_no_image_is_held_out_nothing_is_measured_against_them() -> None:
    none = References(np.zeros((0, 6)), REFERENCES.training, np.zeros((0, 64)))
    assert reasons(estimates([A], none)) == dict.fromkeys(HELD_OUT, "no image is held out")


def test_of_one_seed_a_prompt_nothing_is_known_of_diversity() -> None:
    one_seed = A.take(A.seeds == 0)
    reason = "one seed a prompt: two are needed"
    assert reasons(estimates([one_seed], REFERENCES)) == {
        "diversity": reason,
        "kid": "too few pictures: 7, and 8 are needed",
        "cmmd": "too few pictures: 7, and 8 are needed",
    }
    # A prompt that has but one picture left takes no part.
    some = A.take((A.seeds == 0) | (A.prompts > 1))
    found = measured(estimates([some], REFERENCES))["diversity"]
    expected = measured(estimates([A.take(A.prompts > 1)], REFERENCES))["diversity"]
    assert found == expected


def test_a_discrepancy_needs_pictures_and_held_out_images() -> None:
    assert FEWEST_PICTURES == 8
    enough, few = A.take(np.arange(21) < 8), A.take(np.arange(21) < 7)
    assert reasons(estimates([enough], REFERENCES)) == {}
    reason = "too few pictures: 7, and 8 are needed"
    assert reasons(estimates([few], REFERENCES)) == {"kid": reason, "cmmd": reason}
    # those that both have are counted
    assert reasons(differences([few], [B], REFERENCES)) == {"kid": reason, "cmmd": reason}
    assert REFERENCES.held_out_embeddings is not None
    for count, missing in (
        (8, {}),
        (7, dict.fromkeys(("kid", "cmmd"), "too few held-out images: 7, and 8 are needed")),
    ):
        fewer = replace(REFERENCES, held_out_embeddings=REFERENCES.held_out_embeddings[:count])
        assert reasons(estimates([A], fewer)) == missing


def test_a_discrepancy_needs_two_pictures_besides_those_of_any_prompt() -> None:
    (many,) = WORLD.sets(2, 9, (0.0,))
    for count, missing in ((10, "too few pictures: all but one are of one prompt"), (11, None)):
        found = reasons(estimates([many.take(np.arange(18) < count)], REFERENCES))
        assert found.get("kid") == found.get("cmmd") == missing


def test_where_no_picture_is_finite_nothing_is_measured() -> None:
    none = A.take(np.zeros(21, dtype=bool))
    assert reasons(estimates([none], REFERENCES)) == dict.fromkeys(MEASURES, "no picture is finite")
    in_all = dict.fromkeys(MEASURES, "no prompt and seed has finite pictures of all adapters")
    assert reasons(differences([A], [none], REFERENCES)) == in_all
    halves = [A.take(np.arange(21) < 10), B.take(np.arange(21) >= 10)]
    assert reasons(differences(halves[:1], halves[1:], REFERENCES)) == in_all
    assert reasons(estimates(halves, REFERENCES)) == in_all


def test_intervals_that_hold_together_share_the_error() -> None:
    assert simultaneous(1) == pytest.approx(0.95)
    assert simultaneous(15) == pytest.approx(1 - 0.05 / 15)
