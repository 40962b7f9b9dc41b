"""The training of one pack: it is built, resumed, updated, committed and evaluated."""
