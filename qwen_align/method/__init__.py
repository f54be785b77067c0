"""What can be done, one file each: `train`, `compare` or `evaluate` takes the stage's config and folder and returns its metrics."""
