"""The words that go to a captioner beside an image, and which of the words that come back are the caption."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from lora_engine.models.captioner_kind import QUESTION, Kind

_TEMPLATE_ERRORS = (
    TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError
)  # fmt: skip
_LONGEST_REASON = 300  # characters of a template's own error


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
        repeats = [self.prompt]
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
        for repeat in filter(None, repeats):
            # What merely begins with the same letters is no repetition: "a photograph" is none of "a photo".
            if match := re.match(rf"{re.escape(repeat)}(?!\w)", text, re.IGNORECASE):
                text = text[match.end() :].strip()
                break
        if self.kind == "answers":  # A caption is one line, and hints are added to it, so it ends in no full stop.
            text = " ".join(text.split()).rstrip(".\u3002").rstrip()
        return text


def wordings(processor: Any, kind: Kind, prompt: str) -> Iterator[Wording]:
    """The ways in which the model may want to be asked, the likeliest first.

    A chat template takes a message as a list of images and texts, or as a text in which it puts the image itself, or in
    which the image's token stands.

    Args:
        prompt: empty for the usual question, or none.

    Raises:
        ValueError: a chat template is needed and there is none, it takes no question, or the prompt does not suit it.
    """
    if kind == "continues":
        yield Wording(processor, prompt, prompt, kind)
        return
    question = prompt or QUESTION
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if template is None:
        raise ValueError("its processor has no chat template")
    image = getattr(processor, "image_token", None)
    if image and image in prompt:
        raise ValueError(f"its chat template puts {image} into the question, so that captioner.prompt must not hold it")
    contents: list[Any] = [[{"type": "image"}, {"type": "text", "text": question}], question]
    contents += [f"{image}\n{question}"] if image else []
    reasons: list[str] = []
    for content in contents:
        try:
            text = _rendered(processor, template, content)
        except (
            _TEMPLATE_ERRORS
        ) as error:  # A template is a program of the model's authors, and not made for all messages.
            reasons.append(" ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__)
        else:
            yield Wording(processor, question, text, kind)
    if len(reasons) == len(contents):
        raise ValueError(f"its chat template takes no question about an image ({reasons[0]})")


def require_words(processor: Any, kind: Kind, prompt: str) -> None:
    """Make sure that there are words to ask the model in.

    Raises:
        ValueError: there are none, for the reason that the message gives.
    """
    next(wordings(processor, kind, prompt))


def _rendered(processor: Any, template: Any, content: Any) -> str:
    """A question in the words of a chat template."""
    # Models that think aloud unless they are told not to would say nothing else in so few tokens.
    told = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
    messages = [{"role": "user", "content": content}]
    text: str = processor.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False, **told
    )
    return text
