"""Validation losses against diffusers' scheduler and one pass of a plain UNet for every picture, timestep and text."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.dataset.encoded import ValidationData
from lora_engine.diffusion import NoiseSchedule, PredictionType
from lora_engine.evaluation.components import Condition
from lora_engine.evaluation.denoising import Grid, Scoring, curve_grid, final_grid
from lora_engine.evaluation.loss_file import BegunEvaluation, pack_begun, unpack_begun
from tests.lora_engine.tiny import rows_of, tiny_unet

Conditions = tuple[Condition, ...]

IDS = tuple(f"{at:016x}" + "c" * 48 for at in (7, 2, 11))
LORA = LoraConfig(rank=2, alpha=3.0)
ROWS = {"words": np.array([1, 2, 3]), "": np.zeros(3, dtype=np.int64), "others": np.array([3, 3, 1])}
GRID = Grid(np.array([[0, 500], [250, 999], [3, 700]]), np.array([[0, 5], [2, 9], [1, 7]]), np.array([[1], [0], [1]]))


def philox(key: int, stream: int, *counter: int) -> np.random.Generator:
    words = [0, *counter, 0, 0, 0][:4]
    return np.random.Generator(
        np.random.Philox(key=np.array([key, stream], dtype=np.uint64), counter=np.array(words, dtype=np.uint64))
    )


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


LATENTS, TEXTS = drawn(3, 4, 8, 8, seed=0), drawn(4, 5, 12, seed=1)


def data(dtype: torch.dtype = torch.float64, texts: torch.dtype = torch.float64) -> ValidationData:
    return ValidationData(IDS, LATENTS.to(dtype), rows_of(TEXTS.to(texts)), ROWS)


def scheduler(prediction_type: PredictionType = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )


def schedule(prediction_type: PredictionType = "epsilon") -> NoiseSchedule:
    return NoiseSchedule(scheduler().alphas_cumprod.double(), prediction_type)


def trained() -> tuple[UNet2DConditionModel, dict[str, lora.Adapter]]:
    """A UNet with two adapters that differ, and their weights."""
    unet = tiny_unet()
    lora.inject(unet, [("a", 0), ("b", 1)], LORA)
    weights = {}
    for at, name in enumerate("ab"):
        live = lora.parameters(unet, name)
        weights[name] = {key: 0.2 * drawn(*w.shape, seed=1000 * at + i) for i, (key, w) in enumerate(live.items())}
        lora.load(unet, name, weights[name])
    return unet, weights


@functools.cache
def shared() -> UNet2DConditionModel:
    """A UNet as `trained` gives it, of which every scoring activates the adapters that it needs."""
    return trained()[0]


def merged(adapter: lora.Adapter | None) -> UNet2DConditionModel:
    """A plain UNet, with the adapter added to its weights."""
    unet = tiny_unet()
    for key in [key for key in adapter or {} if key.endswith("lora_A.weight")]:
        assert adapter is not None
        layer = key.removesuffix(".lora_A.weight")
        update = adapter[f"{layer}.lora_B.weight"] @ adapter[key]
        unet.get_submodule(layer).weight.data += 3.0 / 2 * update
    return unet


@functools.cache
def by_hand(name: str | None, prediction_type: PredictionType = "epsilon") -> npt.NDArray[np.float64]:
    """The losses of this adapter or of the base, [component of ROWS, picture, timestep], one at a time."""
    unet, result = merged(trained()[1][name] if name else None), np.zeros((3, 3, 2))
    for component, rows in enumerate(ROWS.values()):
        for image, image_id in enumerate(IDS):
            for at in range(2):
                stratum, timestep = int(GRID.strata_NT[image, at]), torch.tensor([int(GRID.timesteps_NT[image, at])])
                generator = philox(int(image_id[:16], 16), 7, stratum)
                noise = torch.from_numpy(generator.standard_normal((4, 8, 8), dtype=np.float32)).double()[None]
                latents = LATENTS[image][None]
                noisy = scheduler().add_noise(latents, noise, timestep)
                wanted = noise
                if prediction_type == "v_prediction":
                    wanted = scheduler(prediction_type).get_velocity(latents, noise, timestep)
                with torch.inference_mode():
                    found = unet(noisy, timestep, TEXTS[rows[image]][None]).sample
                result[component, image, at] = functional.mse_loss(found, wanted)
    return result


def expected(name: str | None, conditions: Conditions) -> npt.NDArray[np.float64]:
    """The losses of this adapter or of the base under its conditions, one at a time."""
    of_conditions = []
    for condition in conditions:
        losses_NT = by_hand(name)[list(ROWS).index(condition.component)].copy()
        if not condition.whole:
            np.put_along_axis(losses_NT, 1 - GRID.curve_NX, np.nan, axis=1)
        of_conditions.append(losses_NT)
    return np.stack(of_conditions)


def whole(*components: str) -> Conditions:
    return tuple(Condition(component, whole=True) for component in components)


def on_curve(*components: str) -> Conditions:
    return tuple(Condition(component, whole=False) for component in components)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_losses_of_the_base_are_those_of_its_own_passes(prediction_type: PredictionType) -> None:
    scoring = Scoring(shared(), [], [whole(*ROWS)], data(), GRID, schedule(prediction_type), 4)
    assert sum(scoring) == scoring.pairs == 18
    found = scoring.losses(0)
    assert (found.shape, found.dtype.name) == ((3, 3, 2), "float32")
    np.testing.assert_allclose(found, by_hand(None, prediction_type), rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_losses_of_adapters_are_those_of_merged_weights(batch_size: int) -> None:
    scoring = Scoring(shared(), ["b", "a"], [whole("words", "")] * 2, data(), GRID, schedule(), batch_size)
    assert sum(scoring) == scoring.pairs == 12
    for at, name in enumerate("ba"):
        np.testing.assert_allclose(scoring.losses(at), by_hand(name)[:2], rtol=1e-6)


CONDITIONS: list[tuple[Conditions, Conditions, int]] = [
    (whole("words"), whole("others"), 6),
    (whole("others", "words"), whole("words"), 12),
    ((*whole("words"), *on_curve("", "others")), (*whole("others", ""), *on_curve("words")), 2 * 6 + 2 * 3),
    ((*on_curve("others"), *whole("words")), on_curve("others", "words", ""), 6 + 3 * 3),
    (on_curve("words"), on_curve("words"), 3),
]


@pytest.mark.parametrize(("of_a", "of_b", "pairs"), CONDITIONS)
@pytest.mark.parametrize("batch_size", [4, 100])
def test_each_adapter_is_scored_under_its_own_conditions_and_nothing_else(
    of_a: Conditions, of_b: Conditions, pairs: int, batch_size: int
) -> None:
    together = Scoring(shared(), ["a", "b"], [of_a, of_b], data(), GRID, schedule(), batch_size)
    assert sum(together) == together.pairs == together.done == pairs
    for at, (name, conditions) in enumerate({"a": of_a, "b": of_b}.items()):
        np.testing.assert_allclose(together.losses(at), expected(name, conditions), rtol=1e-6)
        alone = Scoring(shared(), [name], [conditions], data(), GRID, schedule(), batch_size)
        assert sum(alone) == sum(6 if each.whole else 3 for each in conditions)
        np.testing.assert_allclose(together.losses(at), alone.losses(0), rtol=1e-6)


def test_the_base_is_scored_on_the_curve_where_it_is_asked_to() -> None:
    conditions = (*whole("words"), *on_curve(""))
    scoring = Scoring(shared(), [], [conditions], data(), GRID, schedule(), 4)
    assert list(scoring) == [4, 2, 3]
    np.testing.assert_allclose(scoring.losses(0), expected(None, conditions), rtol=1e-6)


def test_an_adapter_that_has_nothing_left_to_be_scored_under_is_no_longer_in_the_batch() -> None:
    seen = []
    unet, _ = trained()
    unet.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    conditions = [(*whole("words", ""), *on_curve("others")), whole("words")]
    assert sum(Scoring(unet, ["a", "b"], conditions, data(), GRID, schedule(), 6)) == 15
    assert seen == [12, 6, 3]


def test_batches_are_of_the_size_that_was_asked_for_and_the_rest() -> None:
    scoring = Scoring(shared(), ["a"], [whole("")], data(), GRID, schedule(), 4)
    assert (scoring.pairs, scoring.done) == (6, 0)
    assert not scoring.so_far.any()
    batches = iter(scoring)
    assert next(batches) == 4
    assert scoring.done == 4
    assert scoring.losses(0).astype(bool).tolist() == [[[True, True], [True, True], [False, False]]]
    assert scoring.so_far.astype(bool).tolist() == [True, True, True, True, False, False]
    assert next(batches) == 2
    assert list(batches) == []
    assert scoring.done == 6
    assert list(scoring) == []


UNLIKE = [(*whole("words", ""), *on_curve("others")), (*whole("others"), *on_curve("words", ""))]


def of_both() -> Scoring:
    return Scoring(shared(), ["a", "b"], UNLIKE, data(torch.float32), GRID, schedule(), 4)


# Batches of the first pass: 4 and 2, as of the second; of the two on the curve: 3 each.
@pytest.mark.parametrize("batches", range(7))
def test_a_scoring_goes_on_where_an_earlier_one_stopped(batches: int) -> None:
    """To the same bits, as the batches are the same."""
    straight = of_both()
    assert list(straight) == [4, 2, 4, 2, 3, 3]
    begun = of_both()
    for _, _ in zip(range(batches), begun, strict=False):
        pass
    scoring = of_both()
    stored = unpack_begun(pack_begun(BegunEvaluation(begun.facts, begun.so_far, begun.done)))
    assert scoring.facts == stored.facts
    assert scoring.resume(stored.losses_L, stored.done)
    assert scoring.done == begun.done
    assert list(scoring) == [4, 2, 4, 2, 3, 3][batches:]
    for at in range(2):
        np.testing.assert_array_equal(scoring.losses(at), straight.losses(at))
    np.testing.assert_array_equal(scoring.so_far, straight.so_far)


def test_what_an_earlier_scoring_found_is_taken_as_it_is() -> None:
    straight = of_both()
    assert sum(straight) == straight.pairs == 18
    part = straight.so_far
    part[[4, 5, *range(10, len(part))]] = 0  # but for the first pass, of two adapters, to the fourth pair
    part[[0, 6]] = 77
    scoring = of_both()
    assert scoring.resume(part, 4)
    assert list(scoring) == [2, 4, 2, 3, 3]
    a, b = straight.losses(0), straight.losses(1)
    a[0, 0, 0] = b[0, 0, 0] = 77
    np.testing.assert_array_equal(scoring.losses(0), a)
    np.testing.assert_array_equal(scoring.losses(1), b)


def test_what_cannot_be_an_earlier_scorings_losses_is_not_taken_up() -> None:
    scoring = of_both()
    next(iter(scoring))
    before, size = scoring.so_far, 6 * 2 + 6 + 3 * 2 + 3
    assert before.shape == (size,)
    found = np.full(size, 77, np.float32)
    for losses, done in (
        (found[:-1], 4),
        (np.append(found, 77).astype(np.float32), 4),
        (found[np.newaxis], 4),
        (found, -1),
        (found, 19),
    ):
        assert not scoring.resume(losses, done)
        assert scoring.done == 4
        np.testing.assert_array_equal(scoring.so_far, before)
    assert scoring.resume(found, 18)
    assert list(scoring) == []
    assert scoring.resume(found, 0)
    assert sum(scoring) == 18


def test_facts_are_all_that_decides_the_losses() -> None:
    def facts(
        names: Sequence[str] = ("a", "b"),
        conditions: Sequence[Conditions] = UNLIKE,
        grid: Grid = GRID,
        batch_size: int = 4,
        scored: ValidationData | None = None,
    ) -> str:
        return Scoring(shared(), names, conditions, scored or data(), grid, schedule(), batch_size).facts

    others = [
        facts(names=["a", "c"]),
        facts(names=["b", "a"]),
        facts(names=[], conditions=UNLIKE[:1]),
        facts(names=["a"], conditions=UNLIKE[:1]),
        facts(conditions=UNLIKE[::-1]),
        facts(conditions=[UNLIKE[0], on_curve("others", "words", "")]),
        facts(batch_size=5),
        facts(grid=replace(GRID, timesteps_NT=GRID.timesteps_NT + 1)),
        facts(grid=replace(GRID, curve_NX=1 - GRID.curve_NX)),
        facts(scored=replace(data(), image_ids=IDS[::-1])),
    ]
    assert facts() == facts() == of_both().facts
    assert len({facts(), *others}) == len(others) + 1


def test_over_a_base_in_half_precision_only_the_unet_computes_in_it() -> None:
    seen = []
    unet = tiny_unet(torch.bfloat16)

    def remember(_: object, inputs: tuple[Tensor, ...], output: object) -> None:
        seen.append((inputs[0], inputs[2], output.sample))  # type: ignore[attr-defined]

    unet.register_forward_hook(remember)
    lora.inject(unet, [("a", 0)], LORA)
    grid = Grid(GRID.timesteps_NT[:1, :1], GRID.strata_NT[:1, :1], np.array([[0]]))
    scoring = Scoring(unet, ["a"], [whole("words")], data(torch.float32, torch.bfloat16), grid, schedule(), 4)
    assert sum(scoring) == 1
    ((noisy, text, output),) = seen
    assert {one.dtype for one in (noisy, text, output)} == {torch.bfloat16}
    assert torch.equal(text, TEXTS[1][None].bfloat16())
    noise = torch.from_numpy(philox(7, 7, 0).standard_normal((4, 8, 8), dtype=np.float32))
    expected = functional.mse_loss(output[0].float(), noise)
    assert scoring.losses(0).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_in_the_precision_of_the_latents(dtype: torch.dtype) -> None:
    seen = []
    unet = tiny_unet()
    unet.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    grid = Grid(np.array([[500]]), np.array([[3]]), np.array([[0]]))
    assert sum(Scoring(unet, [], [whole("")], data(dtype), grid, schedule(), 1)) == 1
    noise = torch.from_numpy(philox(7, 7, 3).standard_normal((1, 4, 8, 8), dtype=np.float32)).to(dtype)
    expected = scheduler().add_noise(LATENTS[:1].to(dtype), noise, torch.tensor([500]))
    assert seen[0].dtype == torch.float64  # as the UNet computes
    torch.testing.assert_close(seen[0].to(dtype), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-15)
    assert torch.equal(seen[0].to(dtype).double(), seen[0])


def test_scoring_keeps_no_graph_of_what_it_did() -> None:
    scoring = Scoring(shared(), ["a"], [whole("")], data(), GRID, schedule(), 6)
    assert torch.is_grad_enabled()
    next(iter(scoring))
    assert torch.is_grad_enabled()


def test_the_final_grid_has_every_stratum_at_each_images_own_offset() -> None:
    grid = final_grid(IDS, 5, 5, 1000)
    assert grid.curve_NX.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert grid.strata_NT.tolist() == [[0, 1, 2, 3, 4]] * 3
    offsets = [philox(int(image[:16], 16), 8).random() for image in IDS]
    assert grid.timesteps_NT.tolist() == [[int((k + offset) * 200) for k in range(5)] for offset in offsets]


def test_the_curve_has_one_stratum_of_each_coarse_range() -> None:
    grid = curve_grid(IDS, 2, 8, 1000)
    full = final_grid(IDS, 2, 8, 1000)
    places = [int(philox(int(image[:16], 16), 9).integers(4)) for image in IDS]
    assert grid.strata_NT.tolist() == [[place, 4 + place] for place in places]
    assert grid.timesteps_NT.tolist() == [
        [full.timesteps_NT[i, p], full.timesteps_NT[i, 4 + p]] for i, p in enumerate(places)
    ]
    assert full.curve_NX.tolist() == grid.strata_NT.tolist()
    assert grid.curve_NX.tolist() == [[0, 1]] * 3, "all of it is on the curve"
    assert len(set(places)) > 1


def test_a_grids_columns_are_all_of_an_image_or_those_on_the_curve() -> None:
    assert GRID.columns(whole=True).tolist() == [[0, 1]] * 3
    assert GRID.columns(whole=False).tolist() == [[1], [0], [1]]
