"""What is encoded once, in files, and what training reads of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from lora_engine.dataset.encode import encode_latents
from lora_engine.dataset.encoded import EMPTY_PROMPT, Encoded, text_name
from lora_engine.dataset.tensor_files import TensorFiles
from lora_engine.images.squares import write_square
from lora_engine.records import CaptionRecord

IDS = ("a", "b", "c")
TEXTS = (EMPTY_PROMPT, "a heart")
CPU = torch.device("cpu")


@pytest.fixture
def encoded(tmp_path: Path) -> Encoded:
    generator = torch.Generator().manual_seed(3)

    def random(name: str, names: tuple[str, ...], *shape: int) -> TensorFiles:
        paths = []
        for at, part in enumerate((names[:2], names[2:])):
            path = tmp_path / f"{name}-{at}.safetensors"
            save_file({each: torch.randn(shape, generator=generator) for each in part}, path)
            paths.append(path)
        return TensorFiles(paths)

    return Encoded(
        IDS[:2],
        IDS[2:],
        random("latents", IDS, 2, 4, 8, 8),
        random("mirrored", IDS, 2, 4, 8, 8),
        TEXTS,
        dict.fromkeys(
            (torch.bfloat16, torch.float32), random("texts", tuple(text_name(text) for text in TEXTS), 5, 12)
        ),
    )


def test_files_hold_what_was_saved_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    first, second = {"a": torch.ones(2), "b": torch.zeros(3)}, {"b": torch.ones(3), "c": torch.ones(1)}
    for name, tensors in (("1", first), ("2", second)):
        save_file(tensors, tmp_path / name)
    found = TensorFiles([tmp_path / "1", tmp_path / "2"])
    assert set(found) == {"a", "b", "c"}
    assert len(found) == 3
    assert torch.equal(found["b"], torch.zeros(3))


@pytest.mark.parametrize("resident", [True, False])
def test_training_reads_the_images_then_their_mirror_images(encoded: Encoded, resident: bool) -> None:
    data = encoded.training_data(CPU, torch.bfloat16, flips=True, resident=resident)
    placed = data.moments.place(data.moments.read(np.array([[1, 2], [3, 0]])))
    assert torch.equal(placed[0, 0], encoded.moments["b"])
    assert torch.equal(placed[0, 1], encoded.mirrored["a"])
    assert torch.equal(placed[1, 0], encoded.mirrored["b"])
    text = data.texts.place(data.texts.read(np.array([1])))
    assert torch.equal(text[0], encoded.embeddings[torch.bfloat16][text_name("a heart")].bfloat16())
    assert (data.moments.resident, data.texts.resident) == (resident, resident)
    assert data.latent_shape == (4, 8, 8)


def test_held_out_images_have_the_row_of_their_text_in_each_component(encoded: Encoded) -> None:
    data = encoded.training_data(CPU, torch.float32, flips=False, resident=True)
    found = encoded.validation_data({"x": ["a heart"], "y": [EMPTY_PROMPT]}, data)
    assert found.image_ids == ("c",)
    assert torch.equal(found.latents_NCHW, encoded.moments["c"][:1])
    assert found.texts is data.texts
    assert {name: rows.tolist() for name, rows in found.rows.items()} == {"x": [1], "y": [0]}
    assert all(rows.dtype == np.int64 for rows in found.rows.values())
    with pytest.raises(KeyError):
        encoded.validation_data({"x": ["a key"]}, data)


def test_data_fits_if_it_leaves_most_of_the_memory_free(encoded: Encoded) -> None:
    latents, texts = 2 * (2 * 4 * 8 * 8) * 4, 2 * (5 * 12) * 4
    assert encoded.fits(4 * (latents + texts), torch.float32, flips=False)
    assert not encoded.fits(4 * (latents + texts) - 4, torch.float32, flips=False)
    assert not encoded.fits(4 * (latents + texts), torch.float32, flips=True)


def test_the_latents_of_a_mirror_image_are_those_of_the_image_turned(tmp_path: Path) -> None:
    from PIL import Image

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, sample_size=16, latent_channels=4
    ).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name, array in (("plain", pixels), ("turned", pixels[:, ::-1])):
        write_square(Image.fromarray(np.ascontiguousarray(array)), tmp_path / name)
    (_, ours), (_, plain) = (
        next(encode_latents(vae, [(name, tmp_path / name)], CPU, mirrored=mirrored))
        for name, mirrored in (("plain", True), ("plain", False))
    )
    ((_, theirs),) = encode_latents(vae, [("turned", tmp_path / "turned")], CPU)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not torch.equal(ours, plain)


def test_an_image_with_fewer_texts_than_others_has_its_last_again(encoded: Encoded) -> None:
    captions = {
        "own": [
            CaptionRecord("a", ("a heart", EMPTY_PROMPT, "a heart"), (None,) * 3, (3,) * 3, (False,) * 3, lines=(3,)),
            CaptionRecord("b", ("a heart",), (None,), (3,), (False,)),
            CaptionRecord("c", (EMPTY_PROMPT, "a heart"), (None,) * 2, (3,) * 2, (False,) * 2, lines=(2,)),
        ]
    }
    assert encoded.caption_rows(captions, "own", IDS).tolist() == [[1, 0, 1], [1, 1, 1], [0, 1, 1]]
    assert encoded.caption_rows(captions, "own", ["c", "b"]).tolist() == [[0, 1], [1, 1]]
