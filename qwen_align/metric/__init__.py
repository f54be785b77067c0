"""`evaluate.Metric` modules; every number comes with its 95 % interval."""
