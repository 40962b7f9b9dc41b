"""A model hub's files are verified by the hashes that it gives for them, and it is waited for where it is down."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from job.errors import JobError
from job.storage import UnreachableError
from job.storage.hub import fetch_hub, unverified_in
from tests.http_fault_proxy import Answer, Drop, Fault, Flip, HttpFaultProxy, Plan, Request, always, in_turn
from tests.hub_server import HubServer
from tests.job.storage.waiting import Waiting
from tests.lora_job import ROOT

FETCH = """
from job.errors import JobError
from job.storage.hub import fetch_hub

for name in ("once", "always"):
    try:
        folder = fetch_hub("base_model.source", f"someone/{name}", None, ["*"], lambda: None)
        print(name, (folder / "model.safetensors").read_bytes() == bytes(1000))
    except JobError as error:
        print(name, int(error.code), "arrived damaged twice" in error.cause)
"""


def test_a_file_that_a_hub_sends_damaged_is_fetched_again_and_never_used(tmp_path: Path) -> None:
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model.safetensors").write_bytes(bytes(1000))
    hub = HubServer({f"someone/{name}": tmp_path / "sd" for name in ("once", "always")})
    once, always = (
        in_turn([Flip("answer", 500)] * times, "GET", f"/someone/{name}/resolve/.*")
        for name, times in (("once", 1), ("always", 99))
    )
    port = int(hub.url.rpartition(":")[2])
    with HttpFaultProxy(port, lambda request: once(request) or always(request)) as proxy:
        done = subprocess.run(  # of its own, since the address is read when the library is imported
            [sys.executable, "-c", FETCH],
            env=os.environ | {"HF_ENDPOINT": proxy.url, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        )
    hub.stop()
    assert done.stdout.splitlines() == ["once True", "always 50 True"]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., bytes]]:
    """Fetch a model from a hub behind a proxy, or from an address; gives its file."""
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model.safetensors").write_bytes(b"weights")
    hub = HubServer({"a/b": tmp_path / "sd"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def fetch(waiting: Waiting, plan: Plan = lambda _: None, url: str | None = None, name: str = "a/b") -> bytes:
        def planned(request: Request) -> Fault | None:
            return None if waiting.down.is_set() else plan(request)

        with HttpFaultProxy(int(hub.url.rpartition(":")[2]), planned) as proxy:
            endpoint = url or proxy.url
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
            template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
            folder = fetch_hub("base_model.source", name, None, ["*"], lambda: None, waiting.patience)
            return (folder / "model.safetensors").read_bytes()

    yield fetch
    hub.stop()


API, FILES = "/api/.*", "/a/b/resolve/.*"


@pytest.mark.parametrize(
    "plan",
    [always(Answer(503), "GET", API), always(Drop(), "GET", API), always(Answer(501), "GET", FILES)],
    ids=["busy", "hangs up", "fails at a file"],
)
def test_a_hub_that_comes_back_is_waited_for(ask: Callable[..., bytes], plan: Plan) -> None:
    waiting = Waiting(10)
    assert ask(waiting, plan) == b"weights"
    assert waiting.said == ["waiting for the hub", "the hub is back"]


def test_a_hub_that_stays_away_is_50(ask: Callable[..., bytes]) -> None:
    waiting = Waiting(0.02)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(UnreachableError, match=r"a/b .* the model hub cannot be reached") as caught:
        ask(waiting, url=url)  # nothing listens there any more
    assert caught.value.code == 50
    assert waiting.said == ["waiting for the hub"]


@pytest.mark.parametrize(
    ("how", "remedy"),
    [
        ({"plan": always(Answer(401), "GET", API)}, "HF_TOKEN"),
        ({"plan": always(Answer(403), "GET", API)}, "HF_TOKEN"),
        ({"plan": always(Answer(403), "GET", FILES)}, "HF_TOKEN"),
        ({"name": "a/nothing"}, "Check the name"),
        ({"url": "hub.example"}, "Correct HF_ENDPOINT"),
    ],
    ids=["401", "403", "gated files", "404", "no address"],
)
def test_what_a_hub_will_never_give_is_43_at_once(ask: Callable[..., bytes], how: dict[str, Any], remedy: str) -> None:
    waiting = Waiting(10)
    with pytest.raises(JobError) as caught:
        ask(waiting, **how)
    assert (caught.value.code, waiting.said) == (43, [])
    assert remedy in caught.value.remedy


def test_files_of_a_cache_without_hashes_are_unverified(tmp_path: Path) -> None:
    """Such is a cache on a disk that has no links. Files of one name in several folders are several."""
    for name in ("blobs/" + "0a" * 32, "snapshot/config.json", "snapshot/vae/config.json", "snapshot/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / ("0a" * 32))
    assert unverified_in(tmp_path / "snapshot", ["*.json", "*.safetensors"]) == ["config.json", "vae/config.json"]
