"""Programs that show a run as it goes on, each in a process of its own, which can neither stop nor slow the run."""
