"""Latents and text embeddings of a dataset, and which of them each adapter looks up."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lora_engine.dataset.draws import EMPTY_PROMPT_ROW, choose_parts
from lora_engine.dataset.randomness import Ints, validation_caption_uniform
from lora_engine.dataset.table import TensorTable
from lora_engine.records import CaptionRecord

EMPTY_PROMPT = ""  # as a text, and as the name of the caption set that shows it for every image

_RESIDENT_FRACTION = 0.25  # of the memory that is free, for data that could be streamed instead

_Captions = Mapping[str, Sequence[CaptionRecord]]


def text_name(text: str) -> str:
    """What a text's embedding is kept under: its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TrainingData:
    """All that the loop reads."""

    image_ids: tuple[str, ...]
    moments: TensorTable  # [2, C, H, W] an image: mean and deviation of the VAE's posterior, scaled for the UNet
    embeddings: TensorTable  # [L, D] a text, in the base's dtype; number 0 is the empty prompt
    flips: bool = False  # the moments of the images' mirror images follow theirs, and half of what is drawn are those

    @property
    def device(self) -> torch.device:
        """Where training computes."""
        return self.moments.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        _, channels, height, width = self.moments.shape
        return channels, height, width


@dataclass(frozen=True)
class ValidationData:
    """The held-out images, on the training device."""

    image_ids: tuple[str, ...]
    latents_NCHW: Tensor  # the posterior's mean, scaled for the UNet
    embeddings: TensorTable  # [L, D] a text, in the base's dtype
    caption_rows: Mapping[str, Ints]  # caption set -> row of the embeddings for each image, [N]


@dataclass(frozen=True)
class Encoded:
    """What training and scoring read, on the CPU until a pack asks for it."""

    train_ids: tuple[str, ...]
    validation_ids: tuple[str, ...]
    moments: Mapping[str, Tensor]  # image id to [2, C, H, W]
    mirrored: Mapping[str, Tensor]  # the same of the training images' mirror images; empty where no pack flips
    texts: tuple[str, ...]  # the empty prompt is the first
    embeddings: Mapping[torch.dtype, Mapping[str, Tensor]]  # of a base's dtype: `text_name` of a text to [L, D]

    @cached_property
    def row_of_text(self) -> Mapping[str, int]:
        """Where each text stands."""
        return {text: row for row, text in enumerate(self.texts)}

    def training_data(self, device: torch.device, dtype: torch.dtype, *, flips: bool, resident: bool) -> TrainingData:
        """What training reads of them, the embeddings in the base's dtype.

        Args:
            resident: put all of it on the device now.
        """
        rows = [(self.moments, image) for image in self.train_ids]
        if flips:
            rows += [(self.mirrored, image) for image in self.train_ids]

        def moments(number: int) -> Tensor:
            of, image = rows[number]
            return of[image]

        def embedding(number: int) -> Tensor:
            return self.embeddings[dtype][text_name(self.texts[number])]

        return TrainingData(
            self.train_ids,
            TensorTable(moments, len(rows), device, torch.float32, resident=resident),
            TensorTable(embedding, len(self.texts), device, dtype, resident=resident),
            flips,
        )

    def fits(self, free_bytes: int, dtype: torch.dtype, *, flips: bool) -> bool:
        """Whether all that training reads leaves most of that memory to training itself."""
        moments, embedding = self.moments[self.train_ids[0]], self.embeddings[dtype][text_name(EMPTY_PROMPT)]
        images, texts = len(self.train_ids) * (1 + flips), len(self.texts)
        return images * moments.nbytes + texts * embedding.nbytes <= _RESIDENT_FRACTION * free_bytes

    def validation_data(
        self, captions: _Captions, weights: Mapping[str, Sequence[float]], data: TrainingData
    ) -> ValidationData:
        """The held-out images beside `data`, whose embeddings they share; each set shows one text an image."""
        latents = torch.stack([self.moments[i][0] for i in self.validation_ids])
        rows = {name: self._shown(captions, name, weights[name]) for name in captions}
        rows[EMPTY_PROMPT] = np.full(len(self.validation_ids), EMPTY_PROMPT_ROW)
        return ValidationData(self.validation_ids, latents.to(data.device), data.embeddings, rows)

    def caption_rows(self, captions: _Captions, name: str, ids: Sequence[str]) -> Ints:
        """TensorTable of the embeddings of each image's texts, int64 [N, P]."""
        texts = {record.id: record.texts for record in captions[name]}
        return np.array([[self.row_of_text[text] for text in texts[i]] for i in ids], dtype=np.int64)

    def _shown(self, captions: _Captions, name: str, weights: Sequence[float]) -> Ints:
        rows = self.caption_rows(captions, name, self.validation_ids)
        parts = choose_parts(weights, np.array([validation_caption_uniform(i) for i in self.validation_ids]))
        return rows[np.arange(len(rows)), parts]
