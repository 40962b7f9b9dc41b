"""Captioners with random weights, each of the class that a known model is of, as their authors store them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

SPECIAL = ("<|pad|>", "<|end|>", "<|unknown|>")
WORDS = "a an the on heart moth skull sun red black line drawing picture sticker with and".split()
ASKED = "describe this image in one short sentence of at most 20 words . what is it ? answer : user assistant".split()
# One turn a message; {IMAGE} stands for what an image is in the words of the model.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{IMAGE} {% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
# What authors leave in generation_config.json: it samples unless a caller says otherwise.
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,  # wide, so that random words differ from image to image
}


def tokenizer(special: Sequence[str] = ()) -> Any:
    """A tokenizer of some words and, beside those that every model has, these special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*SPECIAL, *special, *WORDS, *ASKED])
    whole = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<|unknown|>"))
    whole.normalizer = normalizers.Lowercase()
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        extra_special_tokens=list(special),
    )


def _ends(words: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def _save(model: Any, words: Any, folder: Path, sampling: Mapping[str, Any] = SAMPLING) -> None:
    """Write a model that says some words, and none of those that it is asked in, unless it repeats what it is given."""
    model.eval().save_pretrained(folder)
    path = folder / "generation_config.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    never = {"suppress_tokens": words.convert_tokens_to_ids(ASKED), "min_new_tokens": 4}
    path.write_text(json.dumps(found | never | dict(sampling)))


def llava(folder: Path) -> None:
    """LLaVA 1.5: CLIP's vision model and a Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer(["<image>"])
    seen = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    config = LlavaConfig(
        vision_config=seen,
        text_config=LlamaConfig(**TEXT, **_ends(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    _save(LlavaForConditionalGeneration(config), words, folder)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    template = TEMPLATE.replace("{IMAGE}", "<image>")
    LlavaProcessor(
        pixels,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)


def _qwen(folder: Path, family: str, vision: Mapping[str, Any]) -> None:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    special = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    words = tokenizer(list(special.values()))
    rope = {"rope_type": "default", "type": "default", "mrope_section": [2, 3, 3]}
    shared = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8}
    config = getattr(transformers, f"{family}Config")(
        text_config=TEXT | _ends(words) | {"rope_scaling": rope},
        vision_config=shared | dict(vision),
        **{key: words.convert_tokens_to_ids(token) for key, token in special.items()},
    )
    _save(getattr(transformers, f"{family}ForConditionalGeneration")(config), words, folder)
    Qwen2VLImageProcessorPil(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64).save_pretrained(folder)
    words.save_pretrained(folder)
    # The models' authors keep the template in a file of its own, and say there what the processor's class is.
    template = TEMPLATE.replace("{IMAGE}", "<|vision_start|><|image_pad|><|vision_end|>")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processor_class": f"{family}Processor"}))


def qwen2_vl(folder: Path) -> None:
    """Qwen2-VL, whose processor has a part for videos."""
    _qwen(folder, "Qwen2VL", {"embed_dim": 32, "mlp_ratio": 2})


def qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL."""
    more = {"out_hidden_size": 32, "intermediate_size": 64, "window_size": 32, "fullatt_block_indexes": [1]}
    _qwen(folder, "Qwen2_5_VL", more)


def idefics3(folder: Path) -> None:
    """Idefics3, which the first SmolVLM is, too."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer(["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows])
    seen = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config=seen | {"image_size": 32, "patch_size": 8},
        text_config=TEXT | _ends(words) | {"model_type": "llama"},
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=words.pad_token_id,
    )
    _save(Idefics3ForConditionalGeneration(config), words, folder)
    pixels = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    template = TEMPLATE.replace("{IMAGE}", "<image>")
    Idefics3Processor(pixels, words, image_seq_len=4, chat_template=template).save_pretrained(folder)


def blip_2(folder: Path) -> None:
    """BLIP-2 with an OPT, as it is used for captions."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = tokenizer(["<image>"])
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = size | {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128}
    text |= _ends(words) | {"bos_token_id": words.eos_token_id, "init_std": 0.5}
    config = Blip2Config(
        vision_config=size | {"image_size": 32, "patch_size": 8, "initializer_range": 0.5},
        qformer_config=size | {"encoder_hidden_size": 32, "vocab_size": len(words)},
        text_config=text,
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    said = model.language_model.get_output_embeddings().weight.data
    said[words.convert_tokens_to_ids(ASKED)] = 0  # The language model does not read `suppress_tokens`.
    _save(model, words, folder, {})
    pixels = BlipImageProcessorPil(size={"height": 32, "width": 32})
    Blip2Processor(pixels, words, num_query_tokens=4).save_pretrained(folder)


def git(folder: Path) -> None:
    """GIT, which goes on from the image and words in one decoder."""
    from transformers import GitConfig, GitForCausalLM, GitProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = _ends(words) | {"bos_token_id": words.eos_token_id, "initializer_range": 0.5}
    config = GitConfig(vision_config=size | {"image_size": 32, "patch_size": 8}, **size, **more)
    _save(GitForCausalLM(config), words, folder, {})
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    GitProcessor(pixels, words).save_pretrained(folder)


ANSWERING: Mapping[str, Callable[[Path], None]] = {
    "llava": llava,
    "qwen2-vl": qwen2_vl,
    "qwen2.5-vl": qwen2_5_vl,
    "idefics3": idefics3,
}
CONTINUING: Mapping[str, Callable[[Path], None]] = {"blip-2": blip_2, "git": git}


def make(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a captioner of that kind to the folder, and return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (ANSWERING | CONTINUING)[kind](folder)
    return folder
