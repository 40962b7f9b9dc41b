"""Fixtures that tests of several packages share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from miniature.architecture import SHALLOW, make_blip, make_stable_diffusion
from tests.lora_job import Server, use_server
from tests.s3_server import Keys, S3Server

settings.register_profile("busy", deadline=None)  # No test depends on what else the machine does.
settings.load_profile("busy")


class OneServer:
    """Gives all workers of pytest-xdist one server of commands, of which each would otherwise start its own."""

    def __init__(self) -> None:
        self._server = Server()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["lora_job_server"] = self._server.address


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        use_server(config.workerinput["lora_job_server"])
    elif config.getoption("numprocesses", None):
        config.pluginmanager.register(OneServer())


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 store, started when the first test asks for it."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    """A bucket that all tests of a session share, each in a folder of its own."""
    return s3_server.make_bucket()


@pytest.fixture
def use_keys(monkeypatch: pytest.MonkeyPatch) -> Callable[[Keys], None]:
    """A function that gives the environment these credentials, and nothing else that the AWS chain reads."""

    def use(keys: Keys) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in keys.environment().items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def s3_admin(s3_server: S3Server, use_keys: Callable[[Keys], None]) -> S3Server:
    """The S3 store; the environment has credentials that may do everything."""
    use_keys(s3_server.admin)
    return s3_server


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the miniature models `sd`, which has a quarter of Stable Diffusion's layers, and `blip`."""
    folder = tmp_path_factory.mktemp("miniature")
    make_stable_diffusion(folder / "sd", sizes=SHALLOW)
    make_blip(folder / "blip")
    return folder


@pytest.fixture(scope="session")
def all_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with every layer that Stable Diffusion 1.5 has, each of them narrow."""
    folder = tmp_path_factory.mktemp("all-layers")
    make_stable_diffusion(folder)
    return folder
