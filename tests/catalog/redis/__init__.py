"""Tests of the log of changes in Redis."""
