"""Benchmarks: each measures what it compares in one run, on one machine."""
