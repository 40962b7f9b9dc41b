"""Two processes train together, this one and another: what they compute is what one computes."""

import socket
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_engine.adapters import lora
from lora_engine.errors import LostPeerError, ResourceError
from lora_engine.records import StepRecord
from lora_engine.system.distributed import ALONE, Processes
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.trainer import PackTrainer
from tests.lora_engine.training.test_trainer import CONFIG, MEMBERS, run, trainer

UNEVEN = CONFIG.model_copy(update={"batch_size": 3, "gradient_accumulation": 1})  # two images here, one there
LAST = 4  # the other process wants to stop then


def train(
    processes: Processes,
) -> tuple[list[tuple[StepRecord, ...]], PackTrainer, UNet2DConditionModel, dict[str, Tensor]]:
    made, unet = trainer(MEMBERS, UNEVEN, processes=processes)
    made.use_micro_batches(MicroBatches(2, 2))
    updates = made.run(6, lambda: processes.rank == 1 and made.step == LAST)
    records = [tuple(records.values()) for records in updates]
    weights = {f"{m.name}.{key}": value for m in MEMBERS for key, value in lora.export(unet, m.name).items()}
    return records, made, unet, weights


def other_process(port: int, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        processes = second(port, patch)
        with processes.joined():
            message = processes.receive()
            weights = train(processes)[3]
        save_file(weights, folder / "weights.safetensors", {"message": message.decode()})


def second(port: int, patch: pytest.MonkeyPatch) -> Processes:
    patch.setenv("MASTER_ADDR", "127.0.0.1")
    patch.setenv("MASTER_PORT", str(port))
    torch.set_num_threads(1)
    return Processes(1, 2)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = get_context("spawn").Process(target=other_process, args=(port, tmp_path))
    other.start()
    alone, alone_unet = trainer(MEMBERS, UNEVEN)
    expected = run(alone, LAST)
    first = replace(second(port, monkeypatch), rank=0)
    with first.joined():
        first.broadcast("naïve".encode())
        records, made, unet, weights = train(first)
        other.join()
        with pytest.raises(LostPeerError, match="gone"):
            first.any(False)
    assert other.exitcode == 0

    assert made.step == LAST, "a process that is told to stop stops all"
    for ours, theirs in zip(records, expected, strict=True):
        assert [record.loss for record in ours] == pytest.approx([record.loss for record in theirs], abs=1e-10)
        assert [r.grad_norm for r in ours] == pytest.approx([r.grad_norm for r in theirs], abs=1e-10)
        assert [r.noise_sha256 for r in ours] == [r.noise_sha256 for r in theirs]
    for member in MEMBERS:
        pairs = zip(
            lora.parameters(unet, member.name).values(),
            lora.parameters(alone_unet, member.name).values(),
            strict=True,
        )
        for together, single in pairs:
            torch.testing.assert_close(together.grad, single.grad, rtol=0, atol=1e-10)
            torch.testing.assert_close(together, single, rtol=0, atol=1e-10)
    others = load_file(tmp_path / "weights.safetensors")
    assert lora.weights_sha256(others) == lora.weights_sha256(weights), "all hold the same weights"


@pytest.mark.parametrize(("images", "count"), [(1, 1), (3, 2), (4, 4), (16, 5), (7, 3)])
def test_slices_cover_all_images_and_the_first_is_the_largest(images: int, count: int) -> None:
    slices = [Processes(rank, count).local_slice(images) for rank in range(count)]
    assert [at for each in slices for at in range(images)[each]] == list(range(images))
    sizes = [each.stop - each.start for each in slices]
    assert max(sizes) == sizes[0] <= min(sizes) + 1


def test_a_process_without_an_image_is_refused() -> None:
    with pytest.raises(ResourceError, match="Of 3 processes"):
        Processes(0, 3).local_slice(2)


def test_alone_nothing_is_joined() -> None:
    with ALONE.joined():
        assert not torch.distributed.is_initialized()
        values = torch.ones(2)
        ALONE.sum_(values)
        ALONE.broadcast(b"to nobody")
        assert torch.equal(values, torch.ones(2))
        assert ALONE.any(True)
        assert not ALONE.any(False)
