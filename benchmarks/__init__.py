"""Scripts that time or count something, run from the repository's root as `python -m benchmarks.NAME`."""
