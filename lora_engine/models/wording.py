"""The words that go to a captioner beside an image, and which of the words that come back are the caption."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from lora_engine.models.captioner_kind import QUESTION, Kind


@dataclass(frozen=True)
class Wording:
    """A way to ask for captions, by a model's processor."""

    processor: Any
    prompt: str  # which never stands in a caption
    text: str  # what the processor gets beside each image: the prompt, perhaps in a chat template, or nothing
    kind: Kind

    def inputs(self, pictures: Sequence[Any]) -> Any:
        """The model's inputs, from square RGB images."""
        text = {"text": [self.text] * len(pictures)} if self.text else {}
        if self.kind == "continues":
            return self.processor(images=list(pictures), return_tensors="pt", **text)
        start = self.processor.tokenizer.bos_token
        return self.processor(
            images=[[picture] for picture in pictures],
            return_tensors="pt",
            add_special_tokens=start is None or not self.text.startswith(start),  # Two of them would confuse the model.
            **text,
        )

    def captions(self, tokens_BL: torch.Tensor, inputs: Any) -> list[str]:
        """The captions in what the model generated, without all that it was given, whether or not it repeats that.

        Args:
            tokens_BL: for each of B images, L tokens.
        """
        given_BL = inputs.get("input_ids")
        repeats = [self.prompt.lower(), self.prompt]
        if given_BL is not None:
            length = given_BL.shape[1]
            is_begun_with = tokens_BL.shape[1] >= length and torch.equal(tokens_BL[:, :length], given_BL)
            if is_begun_with:
                tokens_BL = tokens_BL[:, length:]
            if is_begun_with and self.kind == "continues":
                repeats = []
            else:  # The tokenizer can write the prompt with other spaces than it was written with.
                repeats += self.processor.batch_decode(given_BL[:1], skip_special_tokens=True)
        texts = self.processor.batch_decode(tokens_BL, skip_special_tokens=True)
        return [self._caption(text.strip(), [repeat.strip() for repeat in repeats]) for text in texts]

    def _caption(self, text: str, repeats: Sequence[str]) -> str:
        text = text.removeprefix(next((repeat for repeat in repeats if text.startswith(repeat)), "")).strip()
        if self.kind == "answers":  # A caption is one line, and hints are added to it, so it ends in no full stop.
            text = " ".join(text.split()).removesuffix(".").rstrip()
        return text


def wordings(processor: Any, kind: Kind, prompt: str) -> Iterator[Wording]:
    """The ways in which the model may want to be asked, the likeliest first.

    A chat template takes a message as a list of images and texts, or as a text in which it puts the image itself, or in
    which the image's token stands.

    Args:
        prompt: empty for the usual question, or none.

    Raises:
        ValueError: the processor has no chat template, though one is needed.
    """
    if kind == "continues":
        yield Wording(processor, prompt, prompt, kind)
        return
    question = prompt or QUESTION
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if template is None:
        raise ValueError("its processor has no chat template")
    contents: list[Any] = [[{"type": "image"}, {"type": "text", "text": question}], question]
    if image := getattr(processor, "image_token", None):
        contents.append(f"{image}\n{question}")
    for content in contents:
        text = _rendered(processor, template, content)
        if text is not None:
            yield Wording(processor, question, text, kind)


def _rendered(processor: Any, template: Any, content: Any) -> str | None:
    """A question in the words of a chat template; None where the template does not take such a message."""
    # Models that think aloud unless they are told not to would say nothing else in so few tokens.
    told = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
    messages = [{"role": "user", "content": content}]
    try:
        text: str = processor.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False, **told
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None  # A template is a program of the model's authors, and fails at a message that it is not made for.
    return text
