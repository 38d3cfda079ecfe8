"""Tests of whole runs: servers, a browser, agents, Dask, PostgreSQL, ranks, kills, faults, and every stage at once: `make test-system`."""
