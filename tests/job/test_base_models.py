"""Base models as people have them, through `validate`, the downloads and a run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from job import layout
from job.errors import JobError, code_of
from job.manifest.load import load_manifest
from job.preflight import check_access, check_trainable
from job.run.context import Attempt
from job.run.dataset import Images
from job.run.resolved import BaseModelDecision, ModelDecision, ModelDecisions, Resolved
from job.stages.encode import encode_all
from job.stages.models import fetch_base, fetch_models
from job.storage import StorageSettings, open_storage
from lora_engine.config.models import BaseModelUse
from lora_engine.dataset.encoded import EMPTY_PROMPT, text_name
from lora_engine.errors import ModelError
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel, model_sha256
from tests.hub_server import HubServer
from tests.job.small_run import PLAIN, arguments, attempt_of, drawings, folder_of
from tests.lora_job import ROOT, lora_job
from tests.s3_server import S3Server
from tests.single_file import checkpoint_of

PARTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def with_variants(base: Path, folder: Path) -> Path:
    """A copy of a pipeline whose weights are stored as the variant fp16."""
    shutil.copytree(base, folder)
    for part, name in PARTS.items():
        (folder / part / name).rename(folder / part / name.replace(".safe", ".fp16.safe"))
    return folder


@pytest.fixture
def checkpoints(all_layers: Path, tmp_path: Path) -> Path:
    """A folder with checkpoints in one file, and a VAE."""
    whole = checkpoint_of(all_layers)
    without_vae = {key: value for key, value in whole.items() if not key.startswith("first_stage_model.")}
    made = {
        "WHOLE.SAFETENSORS": whole,
        "no-vae": without_vae,
        "vae": {key: value for key, value in whole.items() if key not in without_vae},
        "half-a-vae": {key: value for key, value in whole.items() if key.startswith("first_stage_model.encoder.")},
        "lacks-one": {key: value for key, value in whole.items() if not key.endswith("out.2.bias")},
        "lora": {"lora_unet_x.lora_up.weight": torch.zeros(1)},
        "v": without_vae | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)},
    }
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, tensors in made.items():
        save_file(tensors, folder / (name if "." in name else f"{name}.safetensors"))
    torch.save({"state_dict": whole}, folder / "old.ckpt")
    return folder


def checked(tmp_path: Path, *sets: str) -> None:
    """Check the models that a manifest names, as `validate` does."""
    (tmp_path / "images").mkdir(exist_ok=True)
    places = (f"dataset.source={tmp_path / 'images'}", f"output.destination={tmp_path / 'runs'}")
    manifest = load_manifest(PLAIN, "m.yaml", (*places, *sets))
    check_access(manifest)
    check_trainable(manifest)


@pytest.mark.parametrize(
    ("source", "vae", "cause"),
    [
        ("WHOLE.SAFETENSORS", None, None),
        ("no-vae.safetensors", "vae.safetensors", None),
        ("no-vae.safetensors", None, "no-vae.safetensors has no VAE"),
        ("no-vae.safetensors", "no-vae.safetensors", "base_model.vae: no-vae.safetensors is no VAE of pictures"),
        (
            "no-vae.safetensors",
            "half-a-vae.safetensors",
            "half-a-vae.safetensors is no VAE of pictures: it lacks decoder.conv_in.weight",
        ),
        ("no-vae.safetensors", "gone.safetensors", "base_model.vae: there is no"),
        ("no-vae.safetensors", "old.ckpt", "base_model.vae: old.ckpt is a pickle"),
        ("lacks-one.safetensors", "vae.safetensors", "lacks conv_out.bias: 1 of"),
        ("lora.safetensors", None, "is an adapter (LoRA)"),
        ("old.ckpt", None, "old.ckpt is a pickle (.ckpt)"),
    ],
)
def test_validate_says_of_a_file_what_the_run_would_say(
    checkpoints: Path, all_layers: Path, tmp_path: Path, source: str, vae: str | None, cause: str | None
) -> None:
    sets = [f"base_model={{source: {checkpoints / source}, components: {all_layers}}}"]
    sets += [] if vae is None else [f"base_model.vae={checkpoints / vae}"]
    attempt, _ = attempt_of(tmp_path, *sets)

    def run() -> None:
        fetch_base(attempt, attempt.manifest.base_model, StorageSettings())

    for look in (lambda: checked(tmp_path, *sets), run):
        if cause is None:
            look()
            continue
        with pytest.raises((ModelError, JobError)) as caught:
            look()
        assert code_of(caught.value) == 43
        assert cause in str(caught.value)
        assert caught.value.remedy


def test_of_a_file_with_averages_too_nothing_is_advised(all_layers: Path, tmp_path: Path) -> None:
    whole = checkpoint_of(all_layers)
    averages = {f"model_ema.{key.replace('.', '')}": value.clone() for key, value in whole.items() if "model." in key}
    save_file(whole | averages, tmp_path / "with-averages.safetensors")
    drawings(tmp_path / "images")
    manifest = tmp_path / "m.yaml"
    base = f"{{source: {tmp_path}/with-averages.safetensors, components: {all_layers}}}"
    manifest.write_text(PLAIN.replace("{source: models/sd}", base))
    done = lora_job("validate", manifest, cwd=tmp_path)
    assert (done.returncode, "small: valid" in done.stdout) == (0, True), done.stderr
    assert "EMA" not in done.stdout + done.stderr


def test_a_folder_of_variants_is_read_and_one_without_a_vae_needs_one(all_layers: Path, tmp_path: Path) -> None:
    variants = with_variants(all_layers, tmp_path / "variants")
    checked(tmp_path, f"base_model.source={variants}")
    shutil.rmtree(variants / "vae")
    with pytest.raises(JobError, match="vae"):
        checked(tmp_path, f"base_model.source={variants}")
    for vae in (all_layers, all_layers / "vae"):
        sets = (f"base_model.source={variants}", f"base_model.vae={vae}")
        checked(tmp_path, *sets, "lora.target_modules=[to_q]")
        attempt, _ = attempt_of(tmp_path, *sets)
        base = fetch_base(attempt, attempt.manifest.base_model, StorageSettings())
        assert base.part("vae").path == all_layers / "vae"


@pytest.mark.parametrize("part", PARTS)
def test_validate_misses_a_tensor(all_layers: Path, tmp_path: Path, part: str) -> None:
    base = shutil.copytree(all_layers, tmp_path / "base")
    path = base / part / PARTS[part]
    tensors = load_file(path)
    lacking = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lacking}, path)
    with pytest.raises(ModelError, match=rf"base_model\.source: the {part} .*lacks .*: 1 of"):
        checked(tmp_path, f"base_model.source={base}")


def test_the_configuration_of_a_vae_in_one_file_is_that_of_the_components_where_the_pipeline_has_none(
    checkpoints: Path, all_layers: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(all_layers, tmp_path / "base")
    shutil.rmtree(base / "vae")
    sets = (f"base_model={{source: {base}, vae: {checkpoints / 'vae.safetensors'}, components: {all_layers}}}",)
    checked(tmp_path, *sets)
    attempt, _ = attempt_of(tmp_path, *sets)
    model = fetch_base(attempt, attempt.manifest.base_model, StorageSettings())
    expected = stable_diffusion.load_vae(LocalModel(all_layers)).state_dict()
    loaded = stable_diffusion.load_vae(model).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ((), "it has in_channels: 9"),
        (("base_model.zero_terminal_snr=true",), "zero_terminal_snr is true, but the base model predicts the noise"),
        (("base_model.clip_skip=30",), "the text encoder has 2 layers"),
    ],
)
def test_validate_says_of_a_folder_what_the_run_would_say(
    all_layers: Path, tmp_path: Path, lines: tuple[str, ...], cause: str
) -> None:
    base = shutil.copytree(all_layers, tmp_path / "base")
    if not lines:
        config = base / "unet" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    for vae in ("null", "hf://a/vae"):  # One of a hub is not at hand, and with it the base model's own may be lacking.
        with pytest.raises(ModelError, match=cause):
            checked(tmp_path, f"base_model.source={base}", f"base_model.vae={vae}", *lines)
        shutil.rmtree(base / "vae", ignore_errors=True)


@pytest.fixture
def other_vaes(all_layers: Path, tmp_path: Path) -> Path:
    """A folder with a VAE of 16 channels, the same in one file, and a tiny one of another kind."""
    config = json.loads((all_layers / "vae" / "config.json").read_text()) | {"latent_channels": 16}
    AutoencoderKL.from_config(config).save_pretrained(tmp_path / "vaes" / "kl16")
    (path,) = (tmp_path / "vaes" / "kl16").glob("*.safetensors")
    shutil.copy(path, tmp_path / "vaes" / "kl16.safetensors")
    tiny = {"encoder.layers.0.weight": torch.zeros(8, 3, 3, 3), "decoder.layers.1.weight": torch.zeros(8, 4, 3, 3)}
    save_file(tiny, tmp_path / "vaes" / "taesd.safetensors")
    return tmp_path / "vaes"


SAMPLER = "evaluation.samples={prompts: [a], sampler: pndm}"


@pytest.mark.parametrize(
    ("source", "vae", "lines", "cause"),
    [
        ("WHOLE.SAFETENSORS", None, ("base_model.clip_skip=2",), None),
        ("WHOLE.SAFETENSORS", None, ("base_model.clip_skip=3",), "clip_skip is 3, but the text encoder has 2 layers"),
        ("WHOLE.SAFETENSORS", None, ("base_model.zero_terminal_snr=true",), "the base model predicts the noise"),
        ("v.safetensors", "vae.safetensors", ("base_model.zero_terminal_snr=true",), None),
        ("v.safetensors", "vae.safetensors", (SAMPLER,), "pndm cannot begin"),
        ("v.safetensors", "vae.safetensors", (SAMPLER, "base_model.zero_terminal_snr=false"), None),
        ("v.safetensors", "vae.safetensors", (SAMPLER, "base_model.prediction_type=epsilon"), None),
        ("no-vae.safetensors", "kl16", (), "base_model.vae: kl16 is for latents of 16 channels, not of 4"),
        ("no-vae.safetensors", "kl16.safetensors", (), "kl16.safetensors is for latents of 16 channels, not of 4"),
        ("no-vae.safetensors", "taesd.safetensors", (), "taesd.safetensors is no VAE of pictures: it lacks enc"),
        (None, "kl16.safetensors", (), "base_model.vae: kl16.safetensors is for latents of 16 channels, not of 4"),
        (None, "kl16", (), "base_model.vae: kl16 is for latents of 16 channels, not of 4"),
    ],
)
def test_validate_says_of_the_use_of_a_file_what_the_run_would_say(
    checkpoints: Path,
    other_vaes: Path,
    all_layers: Path,
    tmp_path: Path,
    source: str | None,
    vae: str | None,
    lines: tuple[str, ...],
    cause: str | None,
) -> None:
    """With the components at hand, and by the file alone. `source` None is a folder."""
    places = [None if vae is None else folder / vae for folder in (checkpoints, other_vaes)]
    path = next((str(place) for place in places if place and place.exists()), "null")
    base = all_layers if source is None else checkpoints / source
    sets = (f"base_model={{source: {base}, vae: {path}, components: {all_layers}}}", "captioner=null", *lines)
    sets += ("variants=[{name: one, captions: {strategy: existing}}]",)
    looks = [lambda: checked(tmp_path, *sets), lambda: fetch_models(attempt_of(tmp_path, *sets)[0])]
    if cause is None or "noise" not in cause:  # Such a file says nothing of what it predicts: its components do.
        looks.append(lambda: checked(tmp_path, *sets, "base_model.components=hf://a/b"))
    for look in looks:
        if cause is None:
            look()
            continue
        with pytest.raises(ModelError, match=cause) as caught:
            look()
        assert caught.value.remedy


def test_a_file_is_looked_at_without_torch(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(PLAIN)
    vae, components = checkpoints / "vae.safetensors", "hf://a/b"
    base = (
        f"base_model={{source: {checkpoints / 'v.safetensors'}, vae: {vae}, components: '{components}', clip_skip: 2}}"
    )
    code = (
        "import sys\nfrom job.manifest.load import load_manifest\nfrom job.preflight import check_trainable\n"
        "check_trainable(load_manifest(open(sys.argv[1]).read(), 'm.yaml', sys.argv[2:]))\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.yaml"), base]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_name_of_the_hub_without_its_scheme_is_understood(tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path, "base_model.source=owner/name")
    for look in (
        lambda: checked(tmp_path, "base_model.source=owner/name"),
        lambda: fetch_base(attempt, attempt.manifest.base_model, StorageSettings()),
    ):
        with pytest.raises(JobError) as caught:
            look()
        assert caught.value.code == 43
        assert "hf://owner/name" in caught.value.remedy


@pytest.fixture
def hub(tmp_path: Path, all_layers: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with a pipeline in which both kinds of weights stand, one with variants alone, and a VAE."""
    both = with_variants(all_layers, tmp_path / "both")
    for part, name in PARTS.items():
        shutil.copy(all_layers / part / name, both / part)
    variants = with_variants(all_layers, tmp_path / "fp16")
    server = HubServer({"a/both": both, "a/fp16": variants, "a/vae": all_layers / "vae"})
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.stop()


def fetched(attempt: Attempt) -> LocalModel:
    return fetch_base(attempt, attempt.manifest.base_model, attempt.manifest.model_storage())


def test_of_a_hub_the_weights_that_are_read_are_fetched_and_no_others(
    hub: HubServer, all_layers: Path, tmp_path: Path
) -> None:
    base = fetched(attempt_of(tmp_path, "base_model={source: 'hf://a/both', vae: 'hf://a/vae'}")[0])
    assert base.sha256 == model_sha256(all_layers)
    assert not [name for name in hub.requested if "fp16" in name]
    assert base.part("vae").sha256 == model_sha256(all_layers / "vae")
    base = fetched(attempt_of(tmp_path, "base_model.source=hf://a/fp16")[0])
    stable_diffusion.load_unet(base, torch.float32)
    assert {name for name in hub.requested if "fp16" in name} == {
        f"{part}/{name.replace('.safe', '.fp16.safe')}" for part, name in PARTS.items()
    }


def test_the_vae_of_a_hub_is_that_of_its_revision(
    all_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of the base model's; processes of one run have to agree on it."""
    revision = "a" * 40
    snapshot = tmp_path / "hub" / "models--a--vae" / "snapshots" / revision
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(all_layers / "vae")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines = f"base_model={{source: {all_layers}, revision: main, vae: 'hf://a/vae', vae_revision: {revision}}}"
    base = fetched(attempt_of(tmp_path, lines)[0])
    assert base.vae == snapshot
    own = ModelDecisions(base=BaseModelDecision(source="x", sha256=base.sha256))
    vae = ModelDecision(source="y", sha256=model_sha256(all_layers / "vae"))
    other = ModelDecision(source="y", sha256=model_sha256(all_layers))
    found = [own.model_copy(update={"vae": each}).are_of(base) for each in (None, vae, other)]
    assert found == [False, True, False]
    assert own.are_of(LocalModel(all_layers))


def test_of_a_bucket_variants_are_fetched_and_validated(
    s3_admin: S3Server, s3_bucket: str, all_layers: Path, tmp_path: Path
) -> None:
    settings = StorageSettings(endpoint_url=s3_admin.endpoint_url, region="us-east-1", addressing_style="path")
    source, variants = f"s3://{s3_bucket}/{tmp_path.name}/fp16", with_variants(all_layers, tmp_path / "variants")
    storage = open_storage(source, settings)
    for path in variants.rglob("*"):
        if path.is_file():
            storage.write(f"{source}/{path.relative_to(variants)}", path.read_bytes())
    store = f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}"
    checked(tmp_path, store, f"base_model.source={source}")
    base = fetched(attempt_of(tmp_path, store, f"base_model.source={source}")[0])
    assert base.sha256 == model_sha256(variants)
    for at in ("model.ckpt", "MODEL.CKPT"):
        with pytest.raises(ModelError, match="is a pickle"):
            fetched(attempt_of(tmp_path, store, f"base_model.source=s3://{s3_bucket}/{at}")[0])


def test_embeddings_of_another_layer_are_others_in_the_cache(miniature: Path, tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path)
    first, again, skipped = (
        encode_all(
            attempt,
            Images((), lambda: pytest.fail("no image is needed")),
            {},
            LocalModel(miniature / "sd", use=BaseModelUse(clip_skip=clip_skip)),
            torch.device("cpu"),
            ["fp32"],
            flips=False,
        ).embeddings[torch.float32][text_name(EMPTY_PROMPT)]
        for clip_skip in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, skipped)


def test_a_checkpoint_that_predicts_v_is_trained_and_its_adapters_say_so(
    miniature: Path, checkpoints: Path, all_layers: Path, tmp_path: Path
) -> None:
    """With a VAE of its own and a layer of the text encoder left out; another layer is another run."""
    base = f"{{source: {checkpoints / 'v.safetensors'}, components: {all_layers}, vae: {all_layers}, clip_skip: 2}}"
    lines = (f"base_model={base}", "training.steps=1", "evaluation.every=1", "captioner=null")
    lines += ("variants=[{name: one, captions: {strategy: existing}}]",)
    command = arguments(miniature, tmp_path, *lines)
    done = lora_job("run", *command, "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    run = folder_of(str(tmp_path / "runs" / "small"))
    resolved = run.read_stored(layout.RESOLVED, Resolved)
    assert resolved is not None
    assert (resolved.models.base.prediction_type, resolved.models.base.zero_terminal_snr) == ("v_prediction", True)
    assert resolved.identity.base_model_as == {"clip_skip": 2, "vae": model_sha256(all_layers / "vae")}
    with safe_open(tmp_path / "runs" / "small" / "adapters" / "one.safetensors", "pt") as file:
        said = file.metadata()
    expected = {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True", "ss_clip_skip": "2"}
    assert {key: said[key] for key in expected} == expected
    assert said["modelspec.prediction_type"] == "v"
    again = lora_job("run", *command, "--workdir", tmp_path / "work")
    assert (again.returncode, "done" in again.stderr) == (0, True)
    other = lora_job("run", *command, "--set", "base_model.clip_skip=1", "--workdir", tmp_path / "work")
    assert other.returncode == 46
    assert "base_model.clip_skip (2 -> 1)" in other.stderr
