"""Running a trained network on pictures and videos: see `pyhar.inference.predictor`."""
