"""Models that hold code, or are not whole: nothing of theirs runs, and the message names the file."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from job.errors import code_of
from lora_engine import miniature
from lora_engine.config.models import CaptionerConfig
from lora_engine.errors import ModelError
from lora_engine.models import schedule, stable_diffusion
from lora_engine.models.accepted import PIPELINE, plain_patterns
from lora_engine.models.captioner import load_captioner
from lora_engine.models.clip import load_clip
from lora_engine.models.files import (
    LocalModel,
    check_safetensors,
    hash_ahead,
    model_sha256,
    pickled_weights,
    with_pickles,
)
from lora_engine.models.single_file import convert_single_file

PATTERNS = plain_patterns(PIPELINE)
CPU = torch.device("cpu")


class Part:
    """A part of a model that has weights: where they lie, and how it is loaded."""

    def __init__(self, model: str, folder: str, weights: str, load: Callable[[Path, bool], Any]) -> None:
        self.model, self.folder, self.weights, self.load = model, folder, weights, load

    def copy(self, tmp_path: Path) -> Path:
        shutil.copytree(miniature.folder(self.model), tmp_path / "model")
        return tmp_path / "model"

    def pickled(self, tmp_path: Path, content: Any = None) -> Path:
        """A copy whose safetensors are replaced by a pickle of the same weights, or of something else."""
        model = self.copy(tmp_path)
        safe = model / self.folder / self.weights
        name = "pytorch_model.bin" if self.weights == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save(load_file(safe) if content is None else content, safe.with_name(name))
        safe.unlink()
        return model


def captioner(folder: Path, allow_pickle: bool) -> Any:
    return load_captioner(LocalModel(folder, allow_pickle), CaptionerConfig(source="x"), CPU)


PARTS = {
    "captioner": Part("blip", ".", "model.safetensors", captioner),
    "clip": Part("clip", ".", "model.safetensors", lambda f, allow: load_clip(LocalModel(f, allow), CPU)),
    "unet": Part(
        "stable-diffusion",
        "unet",
        "diffusion_pytorch_model.safetensors",
        lambda f, allow: stable_diffusion.load_unet(LocalModel(f, allow), torch.float32),
    ),
    "vae": Part(
        "stable-diffusion",
        "vae",
        "diffusion_pytorch_model.safetensors",
        lambda f, allow: stable_diffusion.load_vae(LocalModel(f, allow)),
    ),
    "text_encoder": Part(
        "stable-diffusion",
        "text_encoder",
        "model.safetensors",
        lambda f, allow: stable_diffusion.load_text_encoder(LocalModel(f, allow), torch.float32)[1],
    ),
}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> Part:
    return PARTS[request.param]


def refusal(part: Part, model: Path, *, allow_pickle: bool) -> str:
    with pytest.raises(ModelError) as caught:
        part.load(model, allow_pickle)
    assert code_of(caught.value) == 43
    assert caught.value.remedy
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_pickles_are_read_only_where_they_are_allowed(part: Part, tmp_path: Path) -> None:
    model = part.pickled(tmp_path)
    message = refusal(part, model, allow_pickle=False)
    assert "pytorch_model.bin" in message
    assert "allow_pickle: true" in message
    assert [file.parent for file in pickled_weights(model / part.folder)] == [model / part.folder]
    loaded, expected = (part.load(f, True) for f in (model, miniature.folder(part.model)))
    ours, theirs = (getattr(m, "_model", m).state_dict() for m in (loaded, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


class Payload:
    """Unpickled as an object, it would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_holds_code_is_refused_and_does_not_run(part: Part, tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "mark"
    model = part.pickled(tmp_path)
    (file,) = pickled_weights(model / part.folder)
    torch.save({"a": Payload(mark)}, file, _use_new_zipfile_serialization=zipped)
    refusal(part, model, allow_pickle=True)
    assert not mark.exists()
    torch.serialization.load(file, weights_only=False)  # a trap that does not work would prove nothing
    assert mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"PK\x03\x04 no zip", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_damaged_pickles_are_refused(part: Part, tmp_path: Path, content: bytes) -> None:
    model = part.pickled(tmp_path)
    pickled_weights(model / part.folder)[0].write_bytes(content)
    refusal(part, model, allow_pickle=True)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_weights_that_were_cut_off_are_named(part: Part, tmp_path: Path, share: float) -> None:
    model = part.copy(tmp_path)
    path = model / part.folder / part.weights
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert part.weights in refusal(part, model, allow_pickle=True)


def test_headers_that_lie_are_named(tmp_path: Path) -> None:
    too_long = b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}'
    for header in (b"", b"{", b"[]", b'{"a": 1}', too_long, b"\xff" * 9):
        (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(ModelError, match=r"a\.safetensors"):
            check_safetensors(tmp_path / "a.safetensors", "base_model.source")


@pytest.mark.parametrize("name", ["evil.bin", "../outside.safetensors", "/etc/passwd", "missing.safetensors", 7])
def test_an_index_names_nothing_but_safetensors_beside_it(part: Part, tmp_path: Path, name: object) -> None:
    model = part.copy(tmp_path)
    mark, path = tmp_path / "mark", model / part.folder / part.weights
    torch.save({"a": Payload(mark)}, path.with_name("evil.bin"))
    shutil.copy(path, path.parent.parent / "outside.safetensors")
    path.rename(path.with_name("part.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(path.with_name("part.safetensors")), name)}
    path.with_name(f"{part.weights}.index.json").write_text(json.dumps(index))
    assert "index" in refusal(part, model, allow_pickle=False)
    assert not mark.exists()


def booby_trapped(model: Path, mark: Path) -> None:
    """Let every configuration name a class of a file that leaves a mark when it is imported."""
    classes = (
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoProcessor",
        "AutoTokenizer",
        "AutoImageProcessor",
    )
    for path in model.rglob("*config.json"):
        config = json.loads(path.read_text())
        if isinstance(config, dict):
            config["auto_map"] = {name: f"trap.{name}" for name in classes}
            path.write_text(json.dumps(config))
    for folder in {model, *(path.parent for path in model.rglob("*.json"))}:
        (folder / "trap.py").write_text(f"open({str(mark)!r}, 'w')\n")


def test_code_in_a_models_folder_is_ignored(part: Part, tmp_path: Path) -> None:
    model, mark = part.copy(tmp_path), tmp_path / "mark"
    booby_trapped(model, mark)
    part.load(model, False)
    assert not mark.exists()


def test_a_model_that_needs_its_own_code_is_refused(tmp_path: Path) -> None:
    for name in ("captioner", "clip"):
        model, mark = PARTS[name].copy(tmp_path / name), tmp_path / "mark"
        booby_trapped(model, mark)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"model_type": "of-its-own"}))
        refusal(PARTS[name], model, allow_pickle=False)
        assert not mark.exists()


def test_an_adapter_does_not_lead_to_another_model(tmp_path: Path) -> None:
    for name in ("captioner", "clip"):
        model = PARTS[name].copy(tmp_path / name)
        (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
        assert "adapter" in refusal(PARTS[name], model, allow_pickle=False)


def test_a_pipeline_names_no_class_but_schedulers(tmp_path: Path) -> None:
    model = PARTS["unet"].copy(tmp_path)
    for entry in (
        ["os", "system"],
        ["diffusers", "DiffusionPipeline"],
        ["diffusers", "Nothing"],
        "x",
        [],
        None,
        [1, 2],
    ):
        index = json.loads((model / "model_index.json").read_text()) | {"scheduler": entry}
        (model / "model_index.json").write_text(json.dumps(index))
        assert type(schedule.load_sampler(LocalModel(model))).__name__ == "PNDMScheduler"
    (model / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="model_index"):
        schedule.load_sampler(LocalModel(model))


def test_a_single_file_must_be_whole_safetensors_and_its_components_of_model_libraries(tmp_path: Path) -> None:
    components, mark = PARTS["unet"].copy(tmp_path), tmp_path / "mark"
    for name in ("model.ckpt", "model.safetensors"):
        torch.save({"a": Payload(mark)}, tmp_path / name)
        with pytest.raises(ModelError, match=name):
            convert_single_file(tmp_path / name, components, tmp_path / "out")
    assert not mark.exists()
    index = json.loads((components / "model_index.json").read_text()) | {"vae": ["antigravity", "fly"]}
    (components / "model_index.json").write_text(json.dumps(index))
    shutil.copy(components / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="antigravity"):
        convert_single_file(tmp_path / "model.safetensors", components, tmp_path / "out")


def test_every_part_is_checked_before_any_is_loaded(tmp_path: Path) -> None:
    for name in ("unet", "vae", "text_encoder"):
        model = PARTS[name].pickled(tmp_path / name)
        with pytest.raises(ModelError, match=f"base_model.source: the {name}"):
            stable_diffusion.require_weights(LocalModel(model))
        stable_diffusion.require_weights(LocalModel(model, True))


def test_pickles_are_fetched_and_hashed_only_where_they_are_read(tmp_path: Path) -> None:
    assert with_pickles(PATTERNS, allow_pickle=False) == PATTERNS
    assert "unet/diffusion_pytorch_model*.bin" in with_pickles(PATTERNS, allow_pickle=True)
    assert "pytorch_model*.bin" in with_pickles(("*.json", "*.safetensors"), allow_pickle=True)
    safe = PARTS["clip"].copy(tmp_path / "safe")
    before = model_sha256(safe)
    (safe / "pytorch_model.bin").write_bytes(b"not read")
    assert model_sha256(safe) == before
    pickled = PARTS["clip"].pickled(tmp_path / "pickled")
    before = model_sha256(pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"read")
    assert model_sha256(pickled) != before


def test_a_model_that_changes_has_another_hash_in_the_same_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    hash_ahead(LocalModel(tmp_path))
    first = model_sha256(tmp_path)
    lines = [
        f"{name}\0{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    ]
    assert first == hashlib.sha256("".join(lines).encode()).hexdigest()
    (tmp_path / "model.safetensors").write_bytes(b"others.")  # as long
    os.utime(tmp_path / "model.safetensors", (0, 0))  # file systems' clocks tick every few milliseconds
    assert model_sha256(tmp_path) != first
