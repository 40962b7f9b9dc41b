"""Measures what docs/performance.md says, a command each."""
