"""Tests of optimizers of one adapter."""
