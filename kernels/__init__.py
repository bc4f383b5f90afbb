"""The compiled side of the operators, imported as `pyhar.kernels`: kernels and their launchers, nothing of autograd.

`pyhar.ops` imports from here; nothing here imports from `pyhar.ops` or above it.
"""
