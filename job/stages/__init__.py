"""One file a stage; `job.pipeline` knows their order."""
