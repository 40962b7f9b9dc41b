"""A real S3 store for tests: SeaweedFS on 127.0.0.1, its data in a temporary folder."""

import json
import random
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

# Ports below those that systems hand out by themselves, also with the 10000 that are added to each for gRPC.
PORTS = range(20000, 22500, 5)
START_SECONDS = 60


@dataclass(frozen=True)
class Keys:
    """Credentials of one identity."""

    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """The variables that give the AWS chain these credentials, and keep it from reading any on this machine."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


ADMIN = Keys("CANARYADMINKEY", "canary/admin+secret")
READ_ONLY = Keys("CANARYREADERKEY", "canary/reader+secret")
JOB = Keys("CANARYJOBKEY", "canary/job+secret")
WRITE_ONLY = Keys("CANARYWRITERKEY", "canary/writer+secret")
STUDY_DATA, STUDY_RUNS = "study-data", "study-runs"  # buckets that only some may use
_ACTIONS = {
    ADMIN: ["Admin", "Read", "List", "Tagging", "Write"],
    READ_ONLY: ["Read", "List"],
    JOB: [f"Read:{STUDY_DATA}", f"List:{STUDY_DATA}", *(f"{do}:{STUDY_RUNS}" for do in ("Read", "List", "Write"))],
    WRITE_ONLY: [f"Read:{STUDY_DATA}", f"List:{STUDY_DATA}", f"Write:{STUDY_RUNS}"],
}


class S3Server:
    """The store, which runs from the making of the object to `stop`."""

    admin = ADMIN
    read_only = READ_ONLY
    job = JOB  # may read one bucket, and read and write another
    write_only = WRITE_ONLY  # may read one bucket, and write another, but not read what it wrote

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="s3-server-"))
        self._process, port = self._start()
        self.port = port
        self.endpoint_url = f"http://127.0.0.1:{port}"

    def client(self, keys: Keys = ADMIN) -> Any:
        """A plain boto3 client, with which a test can arrange and inspect objects without the code under test."""
        return _client(self.port, keys)

    def make_bucket(self) -> str:
        """Create a bucket and return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def stop(self) -> None:
        """Kill the server and remove its data."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        config = self._folder / "identities.json"
        config.write_text(json.dumps({"identities": [_identity(keys, actions) for keys, actions in _ACTIONS.items()]}))
        for attempt in range(5):
            base = _free_ports()
            with (self._folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    _command(self._folder / f"data-{attempt}", config, base),
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            if _answers(process, base):
                return process, base
            process.kill()
            process.wait()
        raise RuntimeError(f"the S3 server does not start: {(self._folder / 'log').read_text()[-2000:]}")


def _identity(keys: Keys, actions: list[str]) -> dict[str, Any]:
    credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
    return {"name": keys.access_key, "credentials": credentials, "actions": actions}


def _command(data: Path, config: Path, base: int) -> list[str]:
    data.mkdir()
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    return [
        *(str(weed), "-logtostderr=true", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-s3.autoCreateBucket=false", f"-s3.config={config}", f"-s3.port={base}", f"-master.port={base + 1}"),
        *(f"-volume.port={base + 2}", f"-filer.port={base + 3}", f"-admin.port={base + 4}"),
    ]


def _free_ports() -> int:
    """The first of five free ports in a row of which those that are higher by 10000 are free, too."""
    while True:
        base = random.choice(PORTS)
        if all(_is_free(base + offset + grpc) for offset in range(5) for grpc in (0, 10000)):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the store takes an object before the time that it may need to start is over."""
    client = _client(port, ADMIN)
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.create_bucket(Bucket="first")
            client.put_object(Bucket="first", Key="object", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return True
    return False


def _client(port: int, keys: Keys) -> Any:
    return boto3.Session(keys.access_key, keys.secret_key, region_name="us-east-1").client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )
