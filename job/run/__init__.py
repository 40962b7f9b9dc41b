"""One run as it is kept in storage: its leases, status, decisions, checkpoints, samples and cache."""
