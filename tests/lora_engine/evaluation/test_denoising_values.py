"""Validation losses against diffusers' scheduler and one pass of a plain UNet for every picture, timestep and text."""

import functools

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
from lora_engine.evaluation.denoising import Grid, Scoring, curve_grid, final_grid
from tests.lora_engine.tiny import rows_of, tiny_unet

IDS = tuple(f"{at:016x}" + "c" * 48 for at in (7, 2, 11))
LORA = LoraConfig(rank=2, alpha=3.0)
ROWS = {"words": np.array([1, 2, 3]), "": np.zeros(3, dtype=np.int64), "others": np.array([3, 3, 1])}
GRID = Grid(np.array([[0, 500], [250, 999], [3, 700]]), np.array([[0, 5], [2, 9], [1, 7]]))


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
    """The losses of this adapter or of the base, [caption set, picture, timestep], one at a time."""
    unet, result = merged(trained()[1][name] if name else None), np.zeros((3, 3, 2))
    for caption_set, rows in enumerate(ROWS.values()):
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
                result[caption_set, image, at] = functional.mse_loss(found, wanted)
    return result


def scored(scoring: Scoring) -> npt.NDArray[np.float32]:
    assert sum(scoring) == 6
    return scoring.losses


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_losses_of_the_base_are_those_of_its_own_passes(prediction_type: PredictionType) -> None:
    unet, _ = trained()
    found = scored(Scoring(unet, [], data(), [*ROWS], GRID, schedule(prediction_type), 4))
    assert (found.shape, found.dtype) == ((1, 3, 3, 2), np.float32)
    np.testing.assert_allclose(found[0], by_hand(None, prediction_type), rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_losses_of_adapters_are_those_of_merged_weights(batch_size: int) -> None:
    unet, _ = trained()
    found = scored(Scoring(unet, ["b", "a"], data(), ["words", ""], GRID, schedule(), batch_size))
    assert found.shape == (2, 2, 3, 2)
    for at, name in enumerate("ba"):
        np.testing.assert_allclose(found[at], by_hand(name)[:2], rtol=1e-6)


def test_batches_are_of_the_size_that_was_asked_for_and_the_rest() -> None:
    scoring = Scoring(trained()[0], ["a"], data(), [""], GRID, schedule(), 4)
    assert (scoring.pairs, scoring.done) == (6, 0)
    assert not scoring.losses.any()
    batches = iter(scoring)
    assert next(batches) == 4
    assert scoring.done == 4
    assert scoring.losses.astype(bool).tolist() == [[[[True, True], [True, True], [False, False]]]]
    assert next(batches) == 2
    assert list(batches) == []
    assert scoring.done == 6
    assert list(scoring) == []


def test_a_scoring_goes_on_where_an_earlier_one_stopped() -> None:
    unet, _ = trained()
    whole = scored(Scoring(unet, ["a", "b"], data(), ["words", "others"], GRID, schedule(), 4))
    part = whole.copy()
    part[:, :, 2] = 0  # the third picture's
    part[:, :, 0] = 77  # as the earlier one found it
    scoring = Scoring(unet, ["a", "b"], data(), ["words", "others"], GRID, schedule(), 4)
    scoring.resume(part, 4)
    assert list(scoring) == [2]
    part[:, :, 2] = whole[:, :, 2]
    np.testing.assert_allclose(scoring.losses, part, rtol=1e-6)


def test_over_a_base_in_half_precision_only_the_unet_computes_in_it() -> None:
    seen = []
    unet = tiny_unet(torch.bfloat16)

    def remember(_: object, inputs: tuple[Tensor, ...], output: object) -> None:
        seen.append((inputs[0], inputs[2], output.sample))  # type: ignore[attr-defined]

    unet.register_forward_hook(remember)
    lora.inject(unet, [("a", 0)], LORA)
    grid = Grid(GRID.timesteps_NT[:1, :1], GRID.strata_NT[:1, :1])
    scoring = Scoring(unet, ["a"], data(torch.float32, torch.bfloat16), ["words"], grid, schedule(), 4)
    assert sum(scoring) == 1
    ((noisy, text, output),) = seen
    assert {one.dtype for one in (noisy, text, output)} == {torch.bfloat16}
    assert torch.equal(text, TEXTS[1][None].bfloat16())
    noise = torch.from_numpy(philox(7, 7, 0).standard_normal((4, 8, 8), dtype=np.float32))
    expected = functional.mse_loss(output[0].float(), noise)
    assert scoring.losses.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_in_the_precision_of_the_latents(dtype: torch.dtype) -> None:
    seen = []
    unet = tiny_unet()
    unet.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    grid = Grid(np.array([[500]]), np.array([[3]]))
    assert sum(Scoring(unet, [], data(dtype), [""], grid, schedule(), 1)) == 1
    noise = torch.from_numpy(philox(7, 7, 3).standard_normal((1, 4, 8, 8), dtype=np.float32)).to(dtype)
    expected = scheduler().add_noise(LATENTS[:1].to(dtype), noise, torch.tensor([500]))
    assert seen[0].dtype == torch.float64  # as the UNet computes
    torch.testing.assert_close(seen[0].to(dtype), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-15)
    assert torch.equal(seen[0].to(dtype).double(), seen[0])


def test_scoring_keeps_no_graph_of_what_it_did() -> None:
    scoring = Scoring(trained()[0], ["a"], data(), [""], GRID, schedule(), 6)
    assert torch.is_grad_enabled()
    next(iter(scoring))
    assert torch.is_grad_enabled()


def test_the_final_grid_has_every_stratum_at_each_images_own_offset() -> None:
    grid = final_grid(IDS, 5, 1000)
    assert grid.strata_NT.tolist() == [[0, 1, 2, 3, 4]] * 3
    offsets = [philox(int(image[:16], 16), 8).random() for image in IDS]
    assert grid.timesteps_NT.tolist() == [[int((k + offset) * 200) for k in range(5)] for offset in offsets]


def test_the_curve_has_one_stratum_of_each_coarse_range() -> None:
    grid = curve_grid(IDS, 2, 8, 1000)
    full = final_grid(IDS, 8, 1000).timesteps_NT
    places = [int(philox(int(image[:16], 16), 9).integers(4)) for image in IDS]
    assert grid.strata_NT.tolist() == [[place, 4 + place] for place in places]
    assert grid.timesteps_NT.tolist() == [[full[i, p], full[i, 4 + p]] for i, p in enumerate(places)]
    assert len(set(places)) > 1
