"""Latents and text embeddings of a dataset, and which of them each adapter looks up.

Shape legend: N images, P texts of an image, C latent channels, H and W latent size, L tokens of a text and D features
of a token.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lora_engine.dataset.randomness import Ints
from lora_engine.dataset.table import TensorTable
from lora_engine.records import CaptionRecord

EMPTY_PROMPT = ""  # the text, whose embedding is in the first row of every table

_RESIDENT_FRACTION = 0.25  # of the free memory that data may take for good, since it could be streamed instead

_Captions = Mapping[str, Sequence[CaptionRecord]]


def text_name(text: str) -> str:
    """The name that a text's embedding is kept under: the text's SHA-256, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TrainingData:
    """All data that the training loop reads."""

    image_ids: tuple[str, ...]  # N
    moments: TensorTable  # row n, [2, C, H, W]: image n's mean and deviation in the VAE's posterior, for the UNet
    # A row a text, row 0 the empty prompt: its embedding, [L, D] in the base's dtype, or its tokens, int64 [L].
    texts: TensorTable
    flips: bool = False  # row N + n of the moments is image n's mirror image, and half of the draws choose those

    @property
    def device(self) -> torch.device:
        """The device that training computes on."""
        return self.moments.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H and W of an image's latent."""
        _, channels, height, width = self.moments.shape
        return channels, height, width


@dataclass(frozen=True)
class ValidationData:
    """The held-out images and the captions that they are scored under, on the training device."""

    image_ids: tuple[str, ...]  # N
    latents_NCHW: Tensor  # the posterior's mean, scaled for the UNet
    texts: TensorTable  # a row a text, as those of the training data
    rows: Mapping[str, Ints]  # component, see `evaluation.components`, to the row of each image's text, int64 [N]


@dataclass(frozen=True)
class Encoded:
    """A whole dataset, encoded, on the CPU until a pack asks for it."""

    train_ids: tuple[str, ...]
    validation_ids: tuple[str, ...]
    moments: Mapping[str, Tensor]  # image id to the posterior's mean and deviation, float32 [2, C, H, W]
    mirrored: Mapping[str, Tensor]  # the same of the training images' mirror images; empty where no pack flips
    texts: tuple[str, ...]  # all distinct texts of all captions; the empty prompt is the first
    # dtype of a base whose text encoder is not trained, to `text_name` of a text, to [L, D]
    embeddings: Mapping[torch.dtype, Mapping[str, Tensor]]
    # `text_name` of a text to int64 [L]; empty where no text encoder is trained
    tokens: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def row_of_text(self) -> Mapping[str, int]:
        """Text to its place in `texts`, which is its row in a table of the embeddings."""
        return {text: row for row, text in enumerate(self.texts)}

    def training_data(
        self, device: torch.device, dtype: torch.dtype, *, flips: bool, resident: bool, tokens: bool = False
    ) -> TrainingData:
        """The training images and all texts, for training on a device.

        Args:
            dtype: the base model's, which the embeddings are given in.
            flips: the mirror images too.
            resident: put all of it on the device now, instead of reading it when it is asked for.
            tokens: give texts as tokens, for a text encoder that is trained, and not as embeddings.
        """
        rows = [(self.moments, image) for image in self.train_ids]
        if flips:
            rows += [(self.mirrored, image) for image in self.train_ids]

        def moments(number: int) -> Tensor:
            latents, image = rows[number]
            return latents[image]

        texts = self._texts(dtype, tokens=tokens)

        def text(number: int) -> Tensor:
            return texts[text_name(self.texts[number])]

        return TrainingData(
            self.train_ids,
            TensorTable(moments, len(rows), device, torch.float32, resident=resident),
            TensorTable(text, len(self.texts), device, torch.int64 if tokens else dtype, resident=resident),
            flips,
        )

    def _texts(self, dtype: torch.dtype, *, tokens: bool) -> Mapping[str, Tensor]:
        """The texts as a base in this dtype takes them: their tokens, or their embeddings."""
        return self.tokens if tokens else self.embeddings[dtype]

    def fits(self, free_bytes: int, dtype: torch.dtype, *, flips: bool, tokens: bool = False) -> bool:
        """Whether all that training reads, mirror images too where it `flips`, takes a small part of the free bytes."""
        moments, text = self.moments[self.train_ids[0]], self._texts(dtype, tokens=tokens)[text_name(EMPTY_PROMPT)]
        images, texts = len(self.train_ids) * (1 + flips), len(self.texts)
        return images * moments.nbytes + texts * text.nbytes <= _RESIDENT_FRACTION * free_bytes

    def validation_data(self, texts: Mapping[str, Sequence[str]], data: TrainingData) -> ValidationData:
        """The held-out images, on the device of `data` and with its texts.

        Args:
            texts: component to the text of each held-out image.
        """
        latents = torch.stack([self.moments[i][0] for i in self.validation_ids])
        rows = {
            name: np.array([self.row_of_text[text] for text in shown], dtype=np.int64) for name, shown in texts.items()
        }
        return ValidationData(self.validation_ids, latents.to(data.device), data.texts, rows)

    def caption_rows(self, captions: _Captions, name: str, ids: Sequence[str]) -> Ints:
        """The row of the embeddings of each text of these images in the caption set `name`, int64 [N, P].

        An image with fewer texts than others has its last again in the places that are left.

        Raises:
            KeyError: the set has no caption of an image.
        """
        texts = {record.id: record.texts for record in captions[name]}
        most = max(len(texts[image]) for image in ids)
        padded = [(*texts[image], *texts[image][-1:] * (most - len(texts[image]))) for image in ids]
        return np.array([[self.row_of_text[text] for text in row] for row in padded], dtype=np.int64)
