"""What a base model predicts, and from where it is sampled: as its files say, or as the manifest says."""

import json
import shutil
from pathlib import Path
from typing import get_args

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from lora_engine.config.adapter import LoraConfig
from lora_engine.config.evaluation import SamplerName
from lora_engine.config.models import BaseModelUse
from lora_engine.config.noise import NoiseConfig
from lora_engine.dataset.encode import encode_texts
from lora_engine.errors import ModelError
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.models.schedule import load_noise_schedule, load_sampler, require_noise
from lora_engine.models.single_file import convert_single_file
from tests.single_file import checkpoint_of

# Some of the schedulers of diffusers call NumPy in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CPU = torch.device("cpu")
OF_V = BaseModelUse(prediction_type="v_prediction")
OF_V_TO_NOISE = BaseModelUse(prediction_type="v_prediction", zero_terminal_snr=True)


@pytest.fixture
def base(miniature: Path) -> Path:
    return miniature / "sd"


def test_the_manifest_goes_before_the_files(base: Path) -> None:
    as_files_say = load_noise_schedule(LocalModel(base))
    assert (as_files_say.prediction_type, as_files_say.zero_terminal_snr) == ("epsilon", False)
    of_v = load_noise_schedule(LocalModel(base, use=OF_V))
    assert (of_v.prediction_type, of_v.zero_terminal_snr) == ("v_prediction", False)
    assert torch.equal(of_v.alphas_cumprod_T, as_files_say.alphas_cumprod_T)
    assert load_sampler(LocalModel(base, use=OF_V)).config.prediction_type == "v_prediction"
    with pytest.raises(ModelError, match="zero_terminal_snr is true, but the base model predicts the noise"):
        load_noise_schedule(LocalModel(base, use=BaseModelUse(zero_terminal_snr=True)))


def test_a_file_of_v_that_is_used_for_the_noise_does_not_end_in_noise_alone(all_layers: Path, tmp_path: Path) -> None:
    """An adapter of it would draw nothing but what is not a number."""
    save_file(
        checkpoint_of(all_layers) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "v.safetensors"
    )
    convert_single_file(tmp_path / "v.safetensors", all_layers, tmp_path / "v")
    assert load_noise_schedule(LocalModel(tmp_path / "v")).zero_terminal_snr
    as_noise = LocalModel(tmp_path / "v", use=BaseModelUse(prediction_type="epsilon"))
    assert not load_noise_schedule(as_noise).zero_terminal_snr
    assert load_sampler(as_noise, "ddim").alphas_cumprod[-1] > 0


def test_the_schedule_to_pure_noise_is_that_of_diffusers(base: Path) -> None:
    loaded = load_noise_schedule(LocalModel(base, use=OF_V_TO_NOISE))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    rescaled = diffusers.schedulers.scheduling_ddpm.rescale_zero_terminal_snr(betas)
    torch.testing.assert_close(loaded.alphas_cumprod_T, (1 - rescaled).cumprod(0), rtol=2e-3, atol=1e-7)
    assert loaded.alphas_cumprod_T[-1] == 0
    assert loaded.zero_terminal_snr


UNABLE = ("pndm", "lms", "heun")


@pytest.mark.parametrize("name", UNABLE)
def test_a_sampler_that_cannot_begin_at_pure_noise_is_refused(base: Path, name: SamplerName) -> None:
    with pytest.raises(ModelError, match=f"{name} cannot begin") as caught:
        load_sampler(LocalModel(base, use=OF_V_TO_NOISE), name)
    assert "ddim, euler, euler_a, dpm++_2m, dpm++_2m_karras or unipc" in caught.value.remedy


@pytest.mark.parametrize("name", [name for name in (None, *get_args(SamplerName)) if name not in UNABLE])
def test_every_other_sampler_begins_at_pure_noise_and_arrives(base: Path, name: SamplerName | None) -> None:
    """With the v that leads from wherever the sample is to one picture, it arrives at that picture."""
    model = LocalModel(base, use=OF_V_TO_NOISE)
    sampler, alphas = load_sampler(model, name), load_noise_schedule(model).alphas_cumprod_T.float()
    picture = torch.full((1, 4, 8, 8), 0.5)
    torch.manual_seed(0)
    sample = torch.randn(1, 4, 8, 8) * sampler.init_noise_sigma
    sampler.set_timesteps(10)
    assert sampler.timesteps[0] == 999
    for timestep in sampler.timesteps:
        scaled = sampler.scale_model_input(sample, timestep)
        alpha = alphas[int(timestep)]
        noise = (scaled - alpha.sqrt() * picture) / (1 - alpha).sqrt()  # that there is beside the picture
        v = alpha.sqrt() * noise - (1 - alpha).sqrt() * picture
        sample = sampler.step(v, timestep, sample, return_dict=False)[0]
    assert (sample - picture).abs().max() < 0.3
    if name is None:
        assert type(sampler).__name__ == "DDIMScheduler"  # instead of PNDM, which the pipeline names


@pytest.mark.parametrize("name", [None, *get_args(SamplerName)])
def test_a_sampler_is_told_nothing_where_the_manifest_says_nothing(base: Path, name: SamplerName | None) -> None:
    own = diffusers.PNDMScheduler.from_pretrained(base, subfolder="scheduler")
    loaded = load_sampler(LocalModel(base), name)
    if name is None:
        assert loaded.config == own.config
    assert loaded.config.prediction_type == "epsilon"
    assert loaded.config.timestep_spacing == type(loaded).from_config(own.config).config.timestep_spacing


@pytest.mark.parametrize(
    ("markers", "metadata", "terminal", "spacing"),
    [(["v_pred", "ztsnr"], {}, True, "trailing"), ([], {"modelspec.prediction_type": "v"}, False, "leading")],
)
def test_a_checkpoint_that_says_so_is_trained_and_sampled_for_v(
    all_layers: Path, tmp_path: Path, markers: list[str], metadata: dict[str, str], terminal: bool, spacing: str
) -> None:
    weights = checkpoint_of(all_layers) | {name: torch.zeros(0) for name in markers}
    save_file(weights, tmp_path / "v.safetensors", metadata)
    convert_single_file(tmp_path / "v.safetensors", all_layers, tmp_path / "out")
    model = LocalModel(tmp_path / "out")
    loaded = load_noise_schedule(model)
    assert (loaded.prediction_type, loaded.zero_terminal_snr) == ("v_prediction", terminal)
    for name in (None, "euler"):
        config = load_sampler(model, name).config
        assert (config.prediction_type, config.timestep_spacing) == ("v_prediction", spacing)
        assert config.get("rescale_betas_zero_snr", False) == terminal
    overruled = LocalModel(tmp_path / "out", use=BaseModelUse(prediction_type="epsilon", zero_terminal_snr=False))
    as_before = load_noise_schedule(overruled)
    assert (as_before.prediction_type, as_before.zero_terminal_snr) == ("epsilon", False)


def test_a_skipped_layer_is_as_if_it_were_not_there(base: Path) -> None:
    tokenizer, encoder = stable_diffusion.load_text_encoder(LocalModel(base), torch.float32)
    last, skipped = (
        next(iter(encode_texts(tokenizer, encoder, ["a red heart"], CPU, clip_skip))) for clip_skip in (1, 2)
    )
    del getattr(encoder, "text_model", encoder).encoder.layers[-1]
    (expected,) = encode_texts(tokenizer, encoder, ["a red heart"], CPU)
    assert torch.equal(skipped, expected)
    assert not torch.equal(last, skipped)


def test_more_layers_than_there_are_cannot_be_skipped(base: Path, tmp_path: Path) -> None:
    layers = json.loads((base / "text_encoder" / "config.json").read_bytes())["num_hidden_layers"]
    shutil.copytree(base, tmp_path / "sd")
    stable_diffusion.require_trainable(LocalModel(tmp_path / "sd", use=BaseModelUse(clip_skip=layers)), LoraConfig())
    with pytest.raises(ModelError, match=f"clip_skip is {layers + 1}, but the text encoder has {layers} layers"):
        stable_diffusion.require_trainable(
            LocalModel(tmp_path / "sd", use=BaseModelUse(clip_skip=layers + 1)), LoraConfig()
        )


@pytest.mark.parametrize("noise", [{"offset": 0.1}, {"multires": {}}])
def test_noise_that_does_not_go_with_a_last_timestep_of_noise_alone_is_refused(
    base: Path, noise: dict[str, object]
) -> None:
    shifted, plain = NoiseConfig.model_validate(noise), NoiseConfig(input_perturbation=0.1)
    require_noise(LocalModel(base, use=OF_V_TO_NOISE), [plain])
    with pytest.raises(ModelError, match=r"training\.noise has .*noise alone") as caught:
        require_noise(LocalModel(base, use=OF_V_TO_NOISE), [plain, shifted])
    assert "zero_terminal_snr: false" in caught.value.remedy
    require_noise(LocalModel(base, use=OF_V), [shifted])
