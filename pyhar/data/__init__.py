"""Data sets, joint layouts, geometry. What a sample is: see `pyhar.data.sample`."""
