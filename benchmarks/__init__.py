"""What ckmigrate costs, against `cp` and against what people do today; `python -m benchmarks`."""
