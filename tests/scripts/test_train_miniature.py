import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from miniature.corpus import all_texts, corpus, line_sayings, sticker_sayings, truth
from miniature.loop import Recipe, train

# Imports once, and then trains in a process of its own for every line: a folder, and how long a step takes at least.
SCRIPT = """
import os, sys, time, torch, torch._dynamo
from pathlib import Path
from miniature.loop import Recipe, train
for line in sys.stdin:
    folder, seconds = line.split()
    pid = os.fork()
    if pid == 0:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        def loss_of(dice):
            time.sleep(float(seconds))
            return model(torch.randn(8, 4, generator=dice)).square().mean()
        train("x", model, loss_of, Recipe(60, 8, 1e-2, 10, ema_decay=0.9, cycles=2), Path(folder), 0, save_seconds=0)
        os._exit(0)
    print(pid, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3])
def test_killed_training_ends_where_uninterrupted_training_does(tmp_path: Path, kills: int) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    straight.mkdir()
    broken.mkdir()
    root = Path(__file__).resolve().parents[2]
    environ = {"PYTHONPATH": str(root / "scripts"), "PATH": ""}
    trainer = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdin is not None
    assert trainer.stdout is not None

    def start(folder: Path, seconds: float) -> int:
        print(folder, seconds, file=trainer.stdin, flush=True)
        return int(trainer.stdout.readline())

    def end() -> str:
        return next(line for line in trainer.stdout if line.startswith("ended"))

    with trainer:
        start(straight, 0)
        assert end() == "ended 0\n"
        for _ in range(kills):
            pid = start(broken, 0.02)
            for _ in range(7):
                trainer.stdout.readline()
            time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
            assert end() == f"ended {-signal.SIGKILL}\n"
        start(broken, 0)
        assert end() == "ended 0\n"
    expected, found = load_file(straight / "x.safetensors"), load_file(broken / "x.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_average_is_what_training_leaves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    data = torch.randn(16, 3)

    def loss_of(_: torch.Generator) -> Tensor:
        return (model(data) - data.sum(1, keepdim=True)).square().mean()

    train("line", model, loss_of, Recipe(400, 16, 0.05, 10, weight_decay=0, ema_decay=0.95), tmp_path, 0)
    stored = load_file(tmp_path / "line.safetensors")
    assert torch.equal(model.weight, stored["average/weight"])
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.02)


def test_training_resumes_whatever_the_memory_layout(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def trained(folder: Path, *, last: int) -> Tensor:
        """Convolution weights after training that is killed at step `last`, if it is reached."""
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        started = 0

        def loss_of(dice: torch.Generator) -> Tensor:
            nonlocal started
            started += 1
            if started > last:
                raise KilledError
            images = torch.randn(2, 3, 8, 8, generator=dice).contiguous(memory_format=torch.channels_last)
            return (model(images) - 1).square().mean()

        train("conv", model, loss_of, Recipe(20, 2, 1e-2, 5, ema_decay=0.9), folder, 0, save_seconds=0)
        return model.weight

    straight = trained(tmp_path / "straight", last=20)
    with pytest.raises(KilledError):
        trained(tmp_path / "broken", last=8)
    assert torch.equal(trained(tmp_path / "broken", last=12), straight)


def test_texts_are_true_of_what_they_describe_and_of_nothing_else() -> None:
    full, colour, background, plain = sticker_sayings("heart", "red", "blue")
    assert full.text == "a red heart on a blue background"
    others = [full, sticker_sayings("heart", "green", "blue")[0], line_sayings("heart")[1], line_sayings("key")[1]]
    assert truth([full, colour, background, plain], others).tolist() == [
        [True, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
    ]
    assert len(set(all_texts())) == len(all_texts())


def test_the_corpus_says_what_it_shows() -> None:
    stickers = corpus("validation", "sticker", 40)
    assert stickers.pixels.shape == (40, 3, 64, 64)
    for at in range(40):
        text = stickers.sayings(at)[0].text
        assert stickers.subjects[at] in text
        assert all(name in text for name in stickers.colours[at])
