"""The stages of a run, one file each; `job.pipeline` knows their order."""
