"""One run in storage: who writes it, where it stands, what it decided and what it keeps."""
