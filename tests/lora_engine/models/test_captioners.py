"""Captioners of every kind that there is: how they are asked, that no prompt stands in a caption, what is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from job.errors import code_of
from lora_engine import miniature
from lora_engine.config.models import CaptionerConfig
from lora_engine.errors import ModelError
from lora_engine.images.squares import read_square, write_square
from lora_engine.models.captioner import captioner_key, load_captioner, require_captioner
from lora_engine.models.captioner_kind import QUESTION, WORDLESS, captioner_kind
from lora_engine.models.files import LocalModel, model_sha256
from lora_engine.models.wording import Wording
from tests import tiny_captioners

CPU = torch.device("cpu")
ALL = {**tiny_captioners.ANSWERING, **tiny_captioners.CONTINUING}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the folder of a captioner of that kind, each made once."""
    root = tmp_path_factory.mktemp("captioners")

    def made(kind: str) -> Path:
        if kind == "idefics3" and getattr(transformers.Idefics3ImageProcessorPil, "is_dummy", False):
            pytest.skip("this version of transformers does not offer the image processor without torchvision")
        return root / kind if (root / kind).exists() else tiny_captioners.make(kind, root / kind)

    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    folder, found = tmp_path_factory.mktemp("squares"), []
    for drawing in sorted(miniature.folder("drawings").glob("*-100000.png"))[:5]:
        path = folder / f"{drawing.stem}.ppm"
        write_square(Image.open(drawing).convert("RGB").resize((64, 64)), path)
        found.append((drawing.stem, path))
    return found


def config(**more: Any) -> CaptionerConfig:
    return CaptionerConfig.model_validate({"source": "x", "batch_size": 2, "max_new_tokens": 12} | more)


def captions(folder: Path, pictures: list[tuple[str, Path]], **more: Any) -> dict[str, str]:
    return dict(load_captioner(LocalModel(folder), config(**more), CPU).caption(pictures))


def by_the_library(folder: Path, processor: Any, picture: Any, question: str) -> str:
    """An answer as transformers' own documentation asks for it, of one image."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=12)
    (text,) = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return " ".join(text.split()).removesuffix(".")


@pytest.mark.parametrize("kind", ["llava", "idefics3"])
@pytest.mark.parametrize("prompt", ["", "What is it ?"])
def test_an_answer_is_the_one_that_the_library_gives(
    models: Callable[[str], Path], pictures: list[tuple[str, Path]], kind: str, prompt: str
) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(models(kind))
    expected = {
        name: by_the_library(models(kind), processor, read_square(path), prompt or QUESTION) for name, path in pictures
    }
    assert captions(models(kind), pictures, prompt=prompt) == expected
    assert any(expected.values())


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("prompt", ["", "What is it? ", "answer"])
def test_no_captioner_says_what_it_was_given(
    models: Callable[[str], Path], pictures: list[tuple[str, Path]], kind: str, prompt: str
) -> None:
    found = captions(models(kind), pictures, prompt=prompt)
    assert found.keys() == {name for name, _ in pictures}
    assert all(found.values())
    assert {word for caption in found.values() for word in caption.split()} <= set(tiny_captioners.WORDS)
    assert captions(models(kind), list(reversed(pictures)), prompt=prompt) == found, "not of its place in a batch"


def test_blip_keeps_no_prompt_that_its_tokenizer_writes_otherwise(
    miniature: Path, pictures: list[tuple[str, Path]]
) -> None:
    plain = captions(miniature / "blip", pictures, prompt="a drawing of")
    assert all("drawing of" not in caption[:12] for caption in plain.values())
    odd = captions(miniature / "blip", pictures, prompt="A drawing, of : ")
    assert not [caption for caption in odd.values() if caption.startswith("a drawing")]


class Repeating:
    """A model that answers with the question, and then with a caption in lines."""

    def __init__(self, captioner: Any, said: str) -> None:
        self.model, self.said = captioner._model, captioner._wording.processor.tokenizer(said).input_ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([input_ids, torch.tensor([self.said] * len(input_ids))], 1)


def test_a_question_that_is_repeated_is_no_part_of_the_answer(
    models: Callable[[str], Path], pictures: list[tuple[str, Path]]
) -> None:
    captioner = load_captioner(LocalModel(models("llava")), config(prompt="what is it ?"), CPU)
    captioner._model = Repeating(captioner, "what is it ? a red heart .")
    assert set(dict(captioner.caption(pictures)).values()) == {"a red heart"}


def test_a_model_that_thinks_aloud_is_told_not_to(tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    template = tiny_captioners.TEMPLATE.replace("{IMAGE}", "<image>")
    thinking = "{% if enable_thinking is undefined or enable_thinking %} moth moth moth {% endif %}"
    expected = captions(folder, pictures)
    (folder / "chat_template.jinja").write_text(template + thinking)
    assert captions(folder, pictures) == expected
    (folder / "chat_template.jinja").write_text(template + " moth moth moth ")
    assert captions(folder, pictures) != expected


OF_TEXTS = "{% for message in messages %}{{ message['role'] + ' : ' + message['content'] }} {% endfor %}assistant :"
TEMPLATES = {
    "with the image's token in the text": OF_TEXTS,
    "with the image where the template puts it": OF_TEXTS.replace("' : '", "' : <image> '"),
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_template_for_texts_alone_is_asked_in_texts(
    tmp_path: Path, pictures: list[tuple[str, Path]], template: str
) -> None:
    """Templates of merged and older models know no lists; some stand in the tokenizer's files."""
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    assert any(captions(folder, pictures).values())


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{% for", "asked", "{{ 1 // 0 }}", "{{ messages.x.y }}"]
)
def test_a_template_that_takes_no_image_is_refused(tmp_path: Path, template: str) -> None:
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=r"cannot caption images") as caught:
        load_captioner(LocalModel(folder), config(), CPU)
    assert code_of(caught.value) == 43
    if template != "asked":  # that there is no image in what it says, the model alone can tell
        with pytest.raises(ModelError, match=r"its chat template takes no question about an image \(.+\)"):
            require_captioner(LocalModel(folder), config())


def test_a_prompt_that_holds_what_the_template_adds_is_refused(tmp_path: Path) -> None:
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    with pytest.raises(ModelError, match=r"its chat template puts <image> into the question"):
        require_captioner(LocalModel(folder), config(prompt="USER: <image>\nwhat is it? ASSISTANT:"))


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ("a photo of a red heart", "of a red heart"),
        ("A Photo of a red heart", "of a red heart"),
        ("a photograph of a red heart", "a photograph of a red heart"),
        ("a photo", ""),
    ],
)
def test_a_prompt_is_taken_off_at_the_end_of_a_word(said: str, caption: str) -> None:
    class Words:
        def batch_decode(self, tokens_BL: torch.Tensor, **_: Any) -> list[str]:
            return [said] * len(tokens_BL)

    asked = Wording(Words(), "a photo", "a photo", "continues")
    assert asked.captions(torch.zeros(1, 4), {}) == [caption]


def test_a_models_settings_for_several_answers_do_not_count(
    models: Callable[[str], Path], tmp_path: Path, pictures: list[tuple[str, Path]]
) -> None:
    expected = captions(models("llava"), pictures)
    folder = shutil.copytree(models("llava"), tmp_path / "llava")
    asked = {"return_dict_in_generate": True, "num_return_sequences": 2, "stop_strings": ["a"], "do_sample": True}
    path = folder / "generation_config.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | asked))
    assert captions(folder, pictures) == expected


def test_a_prompt_that_does_not_fit_a_model_without_template_is_refused(tmp_path: Path) -> None:
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"no chat template among its files"):
        require_captioner(LocalModel(folder), config())
    with pytest.raises(ModelError, match=r"cannot caption images"):
        load_captioner(LocalModel(folder), config(prompt="what is it?"), CPU)
    assert load_captioner(LocalModel(folder), config(prompt="user : <image> what is it? assistant :"), CPU)


def kind_of(files: dict[str, Any], prompt: str = "") -> str:
    texts = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in files.items()}
    return captioner_kind(texts.get, prompt, "captioners.joy.source")


LLAVA = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config.json": {"model_type": "blip"}}, "continues"),
        ({"config.json": {"model_type": "blip"}, "chat_template.jinja": b"x"}, "continues"),
        ({"config.json": {"model_type": "git", "architectures": ["GitForCausalLM"]}}, "continues"),
        ({"config.json": {"model_type": "blip-2", "architectures": []}}, "continues"),
        ({"config.json": LLAVA, "chat_template.jinja": b"x"}, "answers"),
        ({"config.json": LLAVA, "chat_template.json": {"chat_template": "x"}}, "answers"),
        ({"config.json": LLAVA, "tokenizer_config.json": {"chat_template": [{"name": "default"}]}}, "answers"),
        ({"config.json": LLAVA | {"model_type": "qwen2_vl", "architectures": None}, "chat_template.jinja": b"x"},
         "answers"),
    ],
)  # fmt: skip
def test_files_tell_how_a_model_is_asked(files: dict[str, Any], kind: str) -> None:
    assert kind_of(files) == kind


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "config.json names no type"),
        ({"config.json": b"{"}, "config.json names no type"),
        ({"config.json": b"[" * 100_000}, "config.json names no type"),
        ({"config.json": [1]}, "config.json names no type"),
        ({"config.json": {"model_type": 7}}, "its model type is 7"),
        ({"config.json": {"model_type": ["blip"]}}, "its model type is"),
        ({"config.json": {"model_type": "bert"}}, "its model type is 'bert'"),
        ({"config.json": {"model_type": "llama"}, "chat_template.jinja": b"x"}, "its model type is 'llama'"),
        ({"config.json": {"model_type": "clip", "architectures": ["CLIPModel"]}}, "its model type is 'clip'"),
        ({"config.json": {"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]}},
         "holds the weights of BlipForQuestionAnswering, not of BlipForConditionalGeneration"),
        ({"config.json": {"model_type": "qwen2_vl", "architectures": ["Qwen2VLModel"]}, "chat_template.jinja": b"x"},
         "holds the weights of Qwen2VLModel"),
        ({"config.json": LLAVA}, "no chat template"),
        ({"config.json": LLAVA, "chat_template.jinja": b" \n"}, "no chat template"),
        ({"config.json": {"model_type": "pi0"}}, "no chat template"),
    ],
)  # fmt: skip
def test_what_cannot_caption_is_told_by_its_files(files: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError) as caught:
        kind_of(files)
    assert reason in caught.value.cause
    assert caught.value.cause.startswith("captioners.joy.source: ")
    assert "BLIP" in caught.value.remedy
    assert code_of(caught.value) == 43


def test_a_model_without_template_is_asked_in_a_prompt_of_its_own() -> None:
    assert kind_of({"config.json": {"model_type": "paligemma"}}, prompt="caption en") == "continues"


def test_the_models_that_need_no_words_are_the_librarys() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    assert {kind: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind] for kind in WORDLESS} == WORDLESS


def test_blip_is_known_without_torch() -> None:
    code = (
        "import sys; from lora_engine.models.captioner_kind import captioner_kind; "
        """captioner_kind({'config.json': b'{"model_type": "blip"}'}.get, '', 'captioner.source'); """
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_captions_of_an_earlier_version_are_found_again() -> None:
    """Their keys are those of version 0.1.0, but for prompts that it left in the captions."""
    by_0_1_0 = {"": "4d410c02a1c6d7f1671589e0ff094cbe", "a drawing of": "e3f04da9cb891d1c667c428dd80a0679"}
    for prompt, key in by_0_1_0.items():
        assert captioner_key("m", CaptionerConfig(source="x", prompt=prompt), "fp32", "p") == key
    odd = CaptionerConfig(source="x", prompt="USER: what is it?")
    settings = odd.model_dump_json(exclude={"source", "revision", "allow_pickle", "precision"})
    earlier = hashlib.sha256("\n".join(("m", settings, "fp32", "p")).encode()).hexdigest()[:32]
    assert len({earlier, *(captioner_key("m", odd, "fp32", "p", kind) for kind in ("continues", "answers"))}) == 3


def test_a_chat_template_is_part_of_a_models_hash(tmp_path: Path) -> None:
    folder = tiny_captioners.make("llava", tmp_path / "llava")
    before = model_sha256(folder)
    (folder / "chat_template.jinja").write_text("another")
    assert model_sha256(folder) != before
