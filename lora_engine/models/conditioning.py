"""What the UNet is conditioned on: embeddings of texts, computed before, or by a text encoder that is trained with it.

Shape legend: B texts, L tokens of a text, D features of a token.
"""

from typing import Any

from torch import Tensor, nn

from lora_engine.adapters.layer_names import TEXT_ENCODER


class TextEncoder(nn.Module):
    """A CLIP text encoder with its layers under the same names in every version of the library.

    Args:
        text_encoder: transformers' CLIPTextModel.
        clip_skip: which layer's hidden state is the embedding, counted from the last, which is 1; the encoder's last
            norm follows in any case, as A1111 and diffusers have it.
    """

    def __init__(self, text_encoder: Any, clip_skip: int) -> None:
        super().__init__()
        # Some versions have the layers in a module of this name, others have left it out.
        self.text_model = getattr(text_encoder, "text_model", text_encoder)
        self._clip_skip = clip_skip

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """The embeddings of texts. [B, L, D]."""
        text_model: Any = self.text_model
        if self._clip_skip == 1:
            last: Tensor = text_model(tokens_BL)[0]
            return last
        states = text_model(tokens_BL, output_hidden_states=True).hidden_states
        normalised: Tensor = text_model.final_layer_norm(states[-self._clip_skip])
        return normalised


def attach(unet: nn.Module, text_encoder: TextEncoder) -> None:
    """Have the text encoder trained with the UNet.

    It becomes the last part of the UNet, so that whatever names the UNet's layers, or moves them, does so with those of
    the text encoder.
    """
    unet.add_module(TEXT_ENCODER, text_encoder)


def text_encoder_of(unet: nn.Module) -> TextEncoder | None:
    """The text encoder that is trained with the UNet; None where there is none."""
    found = getattr(unet, TEXT_ENCODER, None)
    assert found is None or isinstance(found, TextEncoder)
    return found


def conditioning(unet: nn.Module, texts: Tensor) -> Tensor:
    """What the UNet attends to, [B, L, D].

    Args:
        texts: as a table of texts gives them: tokens, int64 [B, L], where the text encoder is trained with the UNet,
            and it encodes them with the adapters that are active; else embeddings, which are returned.
    """
    text_encoder = text_encoder_of(unet)
    return texts if text_encoder is None else text_encoder(texts)
