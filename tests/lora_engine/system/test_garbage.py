import gc
import weakref

from lora_engine.system.garbage import lasting


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_made_within_is_not_looked_through_again_and_what_comes_later_is() -> None:
    before = gc.get_freeze_count()
    try:
        with lasting():
            within = Cycle()
        after = Cycle()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        ends = [weakref.ref(within), weakref.ref(after)]
        del within, after
        gc.collect()
        assert [end() is None for end in ends] == [False, True]
    finally:
        gc.unfreeze()


def test_an_error_within_leaves_the_collector_on() -> None:
    try:
        with lasting():
            raise ValueError
    except ValueError:
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with lasting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
