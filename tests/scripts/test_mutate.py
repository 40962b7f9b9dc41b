"""What scripts/mutate knows of the rooms holds, and what it says of survivors is right."""

import pytest

import mutation
from mutation import Equal, Room, Survivor, report

ROOMS = mutation.rooms()
DIFF = """\
# lora_engine.x.x_f__mutmut_1: survived
--- lora_engine/x.py
+++ lora_engine/x.py
@@ -1,4 +1,3 @@
 def f(a: int) -> int:
-    if a < 1:
-        return -a
+    if a <= 1:
+
+        return a
     return a
"""


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_every_room_has_its_source_its_tests_and_the_lines_whose_mutants_are_equal(room: Room) -> None:
    source = " ".join((mutation.ROOT / room.source).read_text(encoding="utf-8").split())
    assert all((mutation.ROOT / test).is_file() for test in room.tests)
    assert [equal.was for equal in room.equal if " ".join(equal.was.split()) not in source] == []
    assert all(equal.was != equal.becomes and equal.why.endswith(".") for equal in room.equal)
    assert len({(equal.was, equal.becomes) for equal in room.equal}) == len(room.equal)


def test_a_zip_that_is_no_longer_strict_goes_three_ways() -> None:
    listed = [equal for room in ROOMS.values() for equal in room.equal if "strict=True" in equal.was]
    ways = [equal.becomes for equal in listed if equal.was == listed[0].was]
    assert ways == [listed[0].was.replace("strict=True", lax) for lax in ("strict=None", "strict=False", "")]


def test_a_survivor_tells_what_changed_into_what() -> None:
    assert Survivor("x", DIFF).change == ("if a < 1: return -a", "if a <= 1: return a")


@pytest.mark.parametrize(
    ("was", "becomes", "expected"),
    [
        ("a < 1: return -a", "a <= 1: return a", True),
        ("<", "<=", False),
        ("if a < 1: return -a", "if a <= 1: return a", True),
        ("a <", "b <", False),
        ("not there", "", False),
    ],
)
def test_a_listed_change_is_all_that_changed(was: str, becomes: str, expected: bool) -> None:
    assert Equal(was, becomes, "Why.").is_that(Survivor("x", DIFF)) is expected


def test_a_listed_change_may_stand_anywhere_in_the_line() -> None:
    diff = "-f(a, strict=True) + g(b, strict=True)\n+f(a, strict=True) + g(b, )"
    assert Equal("strict=True", "", "Why.").is_that(Survivor("x", diff))
    assert not Equal("strict=True", "strict=None", "Why.").is_that(Survivor("x", diff))


@pytest.mark.parametrize(("total", "enough"), [(10, False), (12, True)])
def test_listed_survivors_count_as_neither_killed_nor_alive(
    total: int, enough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    equal = Equal("< 1: return -a", "<= 1: return a", "Minus nothing is nothing.")
    room = Room("x", "x.py", (), (equal, Equal("gone", "went", "It was.")))
    stranger = Survivor("y", DIFF.replace("-a", "-b"))
    assert report(room, total, [Survivor("x", DIFF), stranger], 1.0) is enough
    said = capsys.readouterr().out
    assert f"{total - 2} of {total} killed, 1 equal, 1 not listed" in said
    assert "=> equal: Minus nothing is nothing." in said
    assert said.count("=> not listed") == 1
    assert "a survivor that there is not: 'gone' -> 'went'" in said
