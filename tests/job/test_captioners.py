"""Several captioners in one study: BLIP, a model that answers, and the images' own captions are compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_engine.models.files import model_sha256
from tests import tiny_captioners
from tests.job.small_run import BLIP, VANILLA, arguments
from tests.lora_job import lora_job
from tests.s3_server import S3Server

JOY = "{name: joy, captions: {strategy: captioner, captioner: joy}}"
OWN = "{name: own, captions: {strategy: existing}}"
# The captioner under the key `captioner` by its other word, which shares BLIP's captions.
TWIN = "{name: twin, captions: {strategy: captioner, caption_dropout: 0.1}}"
MIX = (
    "{name: mix, captions: {strategy: mix, parts: [{captions: {strategy: blip}}, "
    "{captions: {strategy: captioner, captioner: joy}}, {captions: {strategy: existing}}]}}"
)
FEW = ("training.steps=2", "evaluation.samples=null", "evaluation.final_timesteps=2", "training.batch_size=1")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with random weights."""
    return tiny_captioners.make("llava", tmp_path_factory.mktemp("chat") / "llava")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_blip_a_chat_model_and_own_captions_are_compared_in_one_study(
    miniature: Path, chat: Path, tmp_path: Path
) -> None:
    variants = f"variants=[{VANILLA}, {BLIP}, {OWN}, {JOY}, {TWIN}, {MIX}]"
    study = arguments(miniature, tmp_path, variants, f"captioners={{joy: {{source: {chat}}}}}", *FEW)
    done = lora_job("run", *study)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "small"
    captions = {path.stem: rows(path) for path in (run / "data" / "captions").iterdir()}
    assert set(captions) == {"vanilla", "blip", "own", "joy", "mix"}, "twin has blip's"
    texts = {name: [row["texts"] for row in found] for name, found in captions.items()}
    assert texts["mix"] == [[*a, *b, *c] for a, b, c in zip(texts["blip"], texts["joy"], texts["own"], strict=True)]
    said = {word for row in captions["joy"] for raw in row["raw"] for word in raw.split()}
    assert said
    assert said <= set(tiny_captioners.WORDS), "no word of the question"
    assert texts["joy"] != texts["blip"]

    resolved = json.loads((run / "resolved.json").read_text())
    blip = {"source": str(miniature / "blip"), "sha256": model_sha256(miniature / "blip")}
    joy = {"source": str(chat), "sha256": model_sha256(chat)}
    assert (resolved["models"]["captioner"], resolved["models"]["captioners"]) == (blip, {"joy": joy})
    assert resolved["identity"]["captioners"]["joy"]["sha256"] == joy["sha256"]
    comparison = json.loads((run / "report" / "comparison.json").read_text())
    assert comparison["models"] == resolved["models"]
    assert {member["variant"] for member in comparison["members"]} == {"vanilla", "blip", "own", "joy", "twin", "mix"}

    again = lora_job("run", *study)
    assert again.returncode == 0, again.stderr
    assert "already" in again.stderr
    other = lora_job("run", *study, "--set", "captioners.joy.prompt=what is it?")
    assert other.returncode == 46
    assert "captioners.joy.prompt" in other.stderr


@pytest.mark.slow
def test_captions_of_a_captioner_are_found_by_another_name(miniature: Path, chat: Path, tmp_path: Path) -> None:
    """The one that was `captioner` in a study may be one of several in the next: its captions come from the cache."""
    first = lora_job("run", *arguments(miniature, tmp_path, f"captioner.source={chat}", *FEW, name="first"))
    assert first.returncode == 0, first.stderr
    kept = sorted(path.name for path in (tmp_path / "runs" / ".cache" / "captions").iterdir())
    named = (f"captioners={{joy: {{source: {chat}, max_new_tokens: 16}}}}", f"variants=[{VANILLA}, {JOY}]")
    second = lora_job("run", *arguments(miniature, tmp_path, *named, *FEW, name="second"))
    assert second.returncode == 0, second.stderr
    assert sorted(path.name for path in (tmp_path / "runs" / ".cache" / "captions").iterdir()) == kept
    texts = [rows(tmp_path / "runs" / run / "data" / "captions" / f"{name}.jsonl") for run, name in
             (("first", "blip"), ("second", "joy"))]  # fmt: skip
    assert texts[0] == texts[1]


def broken(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "another type": (lambda folder: broken(folder, model_type="bert"), "its model type is 'bert'"),
    "another class": (lambda folder: broken(folder, architectures=["LlavaModel"]), "LlavaModel"),
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
}


@pytest.mark.parametrize(("change", "reason"), UNFIT.values(), ids=UNFIT.keys())
def test_validate_and_a_run_refuse_what_cannot_caption(
    miniature: Path, tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    study = arguments(miniature, tmp_path, f"captioners={{joy: {{source: {folder}}}}}", f"variants=[{VANILLA}, {JOY}]")
    assert lora_job("validate", *study).returncode == 0
    change(folder)
    for command in ("validate", "run"):
        done = lora_job(command, *study)
        assert done.returncode == 43, done.stderr
        assert "captioners.joy.source: the model cannot caption images" in done.stderr
        assert reason in done.stderr
        assert "Use BLIP" in done.stderr
    assert lora_job("validate", *study, "--offline").returncode == 0


def test_validate_looks_at_a_captioner_in_a_store(
    miniature: Path, tmp_path: Path, s3_admin: S3Server, s3_bucket: str
) -> None:
    prefix = f"s3://{s3_bucket}/{tmp_path.name}"
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    store = f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}"
    study = arguments(miniature, tmp_path, store, f"captioner.source={prefix}/llava")
    for path in folder.iterdir():
        s3_admin.client().put_object(Bucket=s3_bucket, Key=f"{tmp_path.name}/llava/{path.name}", Body=path.read_bytes())
    done = lora_job("validate", *study)
    assert done.returncode == 0, done.stderr
    s3_admin.client().delete_object(Bucket=s3_bucket, Key=f"{tmp_path.name}/llava/chat_template.jinja")
    done = lora_job("validate", *study)
    assert done.returncode == 43, done.stderr
    assert "no chat template" in done.stderr
