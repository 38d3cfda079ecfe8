"""Preflight: what a run would fail on, found and said before it starts. docs/preflight.md lists it."""
