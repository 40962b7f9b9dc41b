"""Whatever happened to a run, its event files hold each item once, in order, after the next time that they are told."""

from hypothesis import given
from hypothesis import strategies as st

from job.trackers.event_names import files_of
from job.trackers.messages import Kind, Record
from job.trackers.told import Item


def items(contents: list[int], first: int = 1) -> list[Item]:
    return [Item(step, f"{step}: {content}", lambda: Record(step=0)) for step, content in enumerate(contents, first)]


def write(folder: dict[str, list[Item]], kind: Kind, wanted: list[Item], kill_after: int | None = None) -> None:
    """Do what `files_of` says to a folder, and stop after so many changes."""
    files = files_of(folder, kind, wanted)
    changes = [(name, None) for name in files.stale] + [(name, list(part)) for name, part in files.new]
    for name, part in changes[:kill_after]:
        assert (name in folder) == (part is None)
        if part is None:
            del folder[name]
        else:
            folder[name] = part


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train", "validation", "samples"]),
            st.integers(0, 12),  # steps that stay as they are
            st.lists(st.integers(0, 1), max_size=5),  # what comes after them
            st.none() | st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_files_hold_each_item_once_in_order_whatever_happened(
    told: list[tuple[Kind, int, list[int], int | None]],
) -> None:
    folder: dict[str, list[Item]] = {"events.out.tfevents.1.of-somebody": [], "note.txt": []}
    contents: dict[Kind, list[int]] = {"train": [], "validation": [], "samples": []}
    for kind, kept, after, kill_after in told:
        contents[kind] = contents[kind][:kept] + after
        write(folder, kind, items(contents[kind]), kill_after)
    for kind, rows in contents.items():
        write(folder, kind, items(rows))
        held = [item.content for name in sorted(folder) if f".{kind}." in name for item in folder[name]]
        assert held == [item.content for item in items(rows)]
        before = dict(folder)
        write(folder, kind, items(rows))
        assert folder == before
    assert "events.out.tfevents.1.of-somebody" in folder


def test_a_file_is_never_written_again_and_later_ones_come_last() -> None:
    folder: dict[str, list[Item]] = {}
    for until in (2, 3, 7):
        before = dict(folder)
        write(folder, "train", items([0] * until))
        assert before.items() <= folder.items()
        assert sorted(folder)[: len(before)] == sorted(before)
    assert len(folder) == 3
