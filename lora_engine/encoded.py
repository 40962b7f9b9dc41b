"""Latents and text embeddings of a dataset, and which of them each adapter looks up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lora_engine.draws import EMPTY_PROMPT_ROW, choose_parts
from lora_engine.evaluate import ValidationData
from lora_engine.randomness import Ints, validation_caption_uniform
from lora_engine.records import CaptionRecord
from lora_engine.train import TrainingData

EMPTY_PROMPT = ""  # as a text, and as the name of the caption set that shows it for every image

_Captions = Mapping[str, Sequence[CaptionRecord]]


@dataclass(frozen=True)
class Encoded:
    """What training and scoring read, on the CPU until a pack asks for it."""

    train_ids: tuple[str, ...]
    validation_ids: tuple[str, ...]
    moments: Mapping[str, Tensor]  # image id to [2, C, H, W]
    embeddings_MLD: Tensor  # row 0 is the empty prompt
    row_of_text: Mapping[str, int]

    def training_data(self, device: torch.device, dtype: torch.dtype) -> TrainingData:
        """The training images on the device, the embeddings in the base's dtype."""
        moments = torch.stack([self.moments[i] for i in self.train_ids]).to(device)
        return TrainingData(self.train_ids, moments[:, 0], moments[:, 1], self.embeddings_MLD.to(device, dtype))

    def validation_data(
        self, captions: _Captions, weights: Mapping[str, Sequence[float]], data: TrainingData
    ) -> ValidationData:
        """The held-out images beside `data`, whose embeddings they share; each set shows one text an image."""
        latents = torch.stack([self.moments[i][0] for i in self.validation_ids])
        rows = {name: self._shown(captions, name, weights[name]) for name in captions}
        rows[EMPTY_PROMPT] = np.full(len(self.validation_ids), EMPTY_PROMPT_ROW)
        return ValidationData(self.validation_ids, latents.to(data.latent_mean_NCHW.device), data.embeddings_MLD, rows)

    def caption_rows(self, captions: _Captions, name: str, ids: Sequence[str]) -> Ints:
        """Rows of the embeddings of each image's texts, int64 [N, P]."""
        texts = {record.id: record.texts for record in captions[name]}
        return np.array([[self.row_of_text[text] for text in texts[i]] for i in ids], dtype=np.int64)

    def _shown(self, captions: _Captions, name: str, weights: Sequence[float]) -> Ints:
        rows = self.caption_rows(captions, name, self.validation_ids)
        parts = choose_parts(weights, np.array([validation_caption_uniform(i) for i in self.validation_ids]))
        return rows[np.arange(len(rows)), parts]
