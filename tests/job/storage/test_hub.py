"""A model hub's files are verified by the hashes that the hub itself gives for them."""

import os
import subprocess
import sys
from pathlib import Path

from job.storage.hub import unverified_in
from tests.http_fault_proxy import Flip, HttpFaultProxy, in_turn
from tests.hub_server import HubServer
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


def test_files_of_a_cache_without_hashes_are_unverified(tmp_path: Path) -> None:
    """Such is a cache on a disk that has no links. Files of one name in several folders are several."""
    for name in ("blobs/" + "0a" * 32, "snapshot/config.json", "snapshot/vae/config.json", "snapshot/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / ("0a" * 32))
    assert unverified_in(tmp_path / "snapshot", ["*.json", "*.safetensors"]) == ["config.json", "vae/config.json"]
