from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from lora_engine import miniature
from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.evaluation import SamplerName
from lora_engine.evaluation.sampler import Request, Sampler
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.records import SampleSetting

FOLDER = miniature.folder("stable-diffusion")
CPU = torch.device("cpu")
NAMES = ["one", "two", "three"]
PROMPTS = ("a heart", "a skull")
NEAR = 2  # of 255, of what differs by how sums are rounded
OWN = {"one": "a heart", "two": "a drawing, a heart", "three": ""}  # each adapter's own text
SETTING = SampleSetting(width=64, height=64, steps=2, guidance=3.0, negative="", strength=1.0)

Pictures = dict[tuple[str | None, int], np.ndarray]  # by adapter, and by the place of the request


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """With three adapters whose pictures differ."""
    model = stable_diffusion.load_unet(LocalModel(FOLDER), torch.float32)
    lora.inject(model, [(name, 0) for name in NAMES], LoraConfig(rank=4, alpha=4))
    for number, name in enumerate(NAMES):
        random = torch.Generator().manual_seed(number)
        weights = lora.export(model, name)
        noisy = {key: weight + 0.05 * torch.randn(weight.shape, generator=random) for key, weight in weights.items()}
        lora.load(model, name, noisy)
    return model


def setting(**changes: object) -> SampleSetting:
    return SampleSetting(**(vars(SETTING) | changes))  # type: ignore[arg-type]


def asked(names: Sequence[str | None], how: SampleSetting = SETTING) -> list[Request]:
    """Two prompts, each with two seeds."""
    return [Request(dict.fromkeys(names, prompt), seed, how) for prompt in PROMPTS for seed in (0, 7)]


@cache
def sampler(unet: nn.Module, images_at_once: int = 16, name: SamplerName | None = None) -> Sampler:
    return Sampler(LocalModel(FOLDER), unet, {*PROMPTS, *OWN.values(), "a grey blur"}, images_at_once, CPU, name)


def drawn(by: Sampler, requests: Sequence[Request]) -> Pictures:
    samples = [one for at_once in by.generate(requests, lambda: None) for one in at_once]
    found: Pictures = {}
    for one in samples:
        assert one.image is not None
        found[one.adapter, one.request] = np.asarray(one.image, dtype=np.int16)
    assert len(found) == len(samples) == sum(len(request.texts) for request in requests)
    return found


def alone(by: Sampler, requests: Sequence[Request]) -> Pictures:
    """The same, each adapter and each request by itself."""
    return {
        (name, at): picture
        for at, request in enumerate(requests)
        for name, text in request.texts.items()
        for picture in drawn(by, [Request({name: text}, request.seed, request.setting)]).values()
    }


def assert_near(found: Mapping[tuple[str | None, int], np.ndarray], expected: Pictures) -> None:
    assert found.keys() == expected.keys()
    for key, picture in found.items():
        assert np.abs(picture - expected[key]).max() <= NEAR, key


def apart(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() > 10 * NEAR)


@pytest.mark.parametrize(
    ("guidance", "images_at_once"), [(1.0, 3), (3.0, 16), pytest.param(3.0, 1, marks=pytest.mark.slow)]
)
def test_adapters_that_generate_together_give_what_each_gives_alone(
    unet: nn.Module, guidance: float, images_at_once: int
) -> None:
    requests = asked(NAMES, setting(guidance=guidance))[1:3]
    together = drawn(sampler(unet, images_at_once), requests)
    assert_near(together, alone(sampler(unet), requests))
    assert all(apart(together["one", at], together[name, at]) for name in NAMES[1:] for at in range(len(requests)))


@pytest.mark.slow
@pytest.mark.parametrize(("guidance", "images_at_once"), [(1.0, 3), (3.0, 1)])
def test_each_adapter_may_have_a_text_of_its_own(unet: nn.Module, guidance: float, images_at_once: int) -> None:
    how = setting(guidance=guidance)
    requests = [Request(OWN, 7, how), Request(dict(reversed(OWN.items())), 8, how)]
    together = drawn(sampler(unet, images_at_once), requests)
    assert_near(together, alone(sampler(unet), requests))
    (as_one,) = drawn(sampler(unet), [Request({"two": OWN["one"]}, 7, how)]).values()
    assert apart(together["two", 0], as_one)


def test_every_request_is_drawn_with_its_own_settings(unet: nn.Module) -> None:
    settings = [
        SETTING,
        setting(width=96),
        setting(height=96),
        setting(steps=3),
        setting(guidance=1.0),
        setting(guidance=5.0),
        setting(negative="a grey blur"),
        setting(strength=0.5),
        setting(strength=-1.0),
    ]
    requests = [Request(dict.fromkeys(NAMES[:2], "a skull"), 7, how) for how in settings]
    together = drawn(sampler(unet), requests)
    one_each = [replace(each, texts={NAMES[at % 2]: "a skull"}) for at, each in enumerate(requests)]
    by_themselves = alone(sampler(unet), one_each)
    assert_near({key: together[key] for key in by_themselves}, by_themselves)
    assert [together["one", at].shape for at in range(3)] == [(64, 64, 3), (64, 96, 3), (96, 64, 3)]
    of_one_size = [together["one", at] for at in (0, *range(3, 9))]
    for at, picture in enumerate(of_one_size):
        assert all(apart(picture, other) for other in of_one_size[:at]), at


def test_the_base_model_generates_when_no_adapter_is_named(unet: nn.Module) -> None:
    plain = stable_diffusion.load_unet(LocalModel(FOLDER), torch.float32)
    lora.inject(plain, [("zero", 0)], LoraConfig(rank=4, alpha=4))
    drawn(sampler(unet), asked(NAMES))
    ours, theirs = drawn(sampler(unet), asked([None])), drawn(sampler(plain), asked(["zero"]))
    assert_near({("zero", at): picture for (_, at), picture in ours.items()}, theirs)
    assert {name for name, _ in ours} == {None}


def test_of_strength_0_an_adapter_is_the_base_model(unet: nn.Module) -> None:
    base, ours = (drawn(sampler(unet), asked([name], setting(strength=0.0))) for name in (None, "two"))
    assert_near(ours, {("two", at): picture for (_, at), picture in base.items()})


def test_strength_multiplies_what_an_adapter_adds(unet: nn.Module) -> None:
    """The model is linear in `up`, so that half of it is the adapter of half the strength."""
    half = stable_diffusion.load_unet(LocalModel(FOLDER), torch.float32)
    lora.inject(half, [("two", 0)], LoraConfig(rank=4, alpha=4))
    weights = lora.export(unet, "two")
    lora.load(half, "two", {key: weight / 2 if "lora_B" in key else weight for key, weight in weights.items()})
    ours = drawn(sampler(unet), asked(["two"], setting(strength=0.5)))
    assert_near(ours, drawn(sampler(half), asked(["two"])))


def pipeline_with(weights: dict[str, Tensor]) -> StableDiffusionPipeline:
    """diffusers' own, with PEFT's layers, which knows nothing of packs."""
    from peft import LoraConfig as PeftConfig

    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.add_adapter(
        PeftConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), adapter_name="two"
    )
    parameters: dict[str, Tensor] = dict(pipeline.unet.named_parameters())
    for key, weight in weights.items():
        parameters[key.replace(".weight", ".two.weight")].data.copy_(weight)
    return pipeline


@pytest.mark.parametrize("name", [None, "ddim"])
def test_pictures_are_those_of_the_pipeline_that_people_use(unet: nn.Module, name: SamplerName | None) -> None:
    pipeline = pipeline_with(lora.export(unet, "two"))
    if name == "ddim":
        pipeline.scheduler = DDIMScheduler.from_pretrained(FOLDER, subfolder="scheduler", clip_sample=False)
    how = setting(negative="a grey blur", steps=3, width=96)
    (expected,) = pipeline(
        PROMPTS[1],
        negative_prompt=how.negative,
        height=how.height,
        width=how.width,
        num_inference_steps=how.steps,
        guidance_scale=how.guidance,
        generator=torch.Generator().manual_seed(7),
    ).images
    ours = drawn(sampler(unet, name=name), asked(NAMES, how))["two", 3]
    assert np.abs(ours - np.asarray(expected, dtype=np.int16)).max() <= NEAR


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' own lms
def test_every_sampler_gives_pictures_of_its_own(unet: nn.Module) -> None:
    """Twice the same ones, whatever was drawn between."""
    how, found = setting(steps=3, guidance=1.0), []
    requests = [Request({"one": "a heart", "two": "a skull"}, 7, how)]
    for name in get_args(SamplerName):
        by = sampler(unet, name=name)
        first, _, again = (drawn(by, asked_for) for asked_for in (requests, asked(["three"], how)[:1], requests))
        assert_near(again, first)
        assert min(picture.std() for picture in first.values()) > NEAR
        assert apart(first["one", 0], first["two", 0])
        found.append(first["one", 0])
    for at, picture in enumerate(found):
        assert all(np.abs(picture - other).max() > 0 for other in found[:at]), get_args(SamplerName)[at]


def test_an_adapter_that_is_not_finite_gives_no_picture_and_leaves_the_others_alone(unet: nn.Module) -> None:
    weights = lora.export(unet, "three")
    lora.load(unet, "three", {key: torch.full_like(weight, float("nan")) for key, weight in weights.items()})
    try:
        (samples,) = sampler(unet).generate([Request(OWN, 7, SETTING)], lambda: None)
    finally:
        lora.load(unet, "three", weights)
    assert {one.adapter: one.image is None for one in samples} == {"one": False, "two": False, "three": True}
    beside = {(one.adapter, 0): np.asarray(one.image, np.int16) for one in samples if one.image is not None}
    whole = drawn(sampler(unet), [Request(OWN, 7, SETTING)])
    assert_near(beside, {key: whole[key] for key in beside})


def test_what_the_check_raises_ends_the_generation(unet: nn.Module) -> None:
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(sampler(unet).generate(asked(NAMES), check))
