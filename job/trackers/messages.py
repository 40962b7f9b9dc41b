"""What the job and the process of a tracker say to each other: a line of JSON a request, and one for each answer."""

from typing import Any, Literal, Protocol

from job.layout import Member
from job.storage.stored import StoredJson

Kind = Literal["train", "validation", "samples", "verdict"]


class Picture(StoredJson):
    """A sample."""

    name: str
    prompt: str
    width: int  # pixels
    height: int
    png: str  # base64


class Record(StoredJson):
    """What there is to show of an adapter at one step."""

    step: int
    scalars: dict[str, float] = {}  # by names such as train/loss
    pictures: tuple[Picture, ...] = ()
    texts: dict[str, str] = {}


class Adapter(StoredJson):
    """The adapter of which something is shown."""

    run: str  # the run's name
    run_id: str  # tells it from others of the same name
    started_at: float  # when the run began, in seconds since 1970
    member: Member
    settings: dict[str, Any]  # of its variant

    @property
    def path(self) -> str:
        """A name for people, which no other adapter of the run has."""
        return f"{self.run}/{self.member.variant}/seed-{self.member.seed}"

    @property
    def identity(self) -> str:
        """A name for programs, which no other adapter of any run has, and which every attempt at the run finds."""
        return f"{self.run_id}/{self.member.variant}/{self.member.seed}"


class Request(StoredJson):
    """Records of one kind, by ascending step."""

    of: Adapter
    kind: Kind
    records: tuple[Record, ...]


class Answer(StoredJson):
    """That a request was done, or why it was not."""

    events: str | None = None  # of TensorBoard: the bytes of an event file, base64
    error: str | None = None


class Service(Protocol):
    """A tracker, within its own process. What a method raises ends that process."""

    def take(self, request: Request) -> bytes | None:
        """Show the records; of TensorBoard, give the event file that shows them."""
        ...

    def finish(self) -> None:
        """Wait until all has arrived. Nothing is taken any more after it."""
        ...
