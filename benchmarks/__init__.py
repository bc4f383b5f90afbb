"""Scripts that time or count something, run from the repository's root as `python -m benchmarks.NAME`."""

import sys

# How threads wait for work is settled when PyTorch is first imported: for operators as in anyone's program, else as on
# the command lines.
if not {"benchmarks.ops", "benchmarks.call_overhead", "benchmarks.profile_ops"}.intersection(sys.orig_argv):
    import pyhar.cli  # noqa: F401
