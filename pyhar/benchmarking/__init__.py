"""What `pyhar benchmark` is made of: networks to measure, ways to run them, clocks, counts and ceilings."""
