"""The command line: `twotower serve`, `release`, `train`, `query`, `demo`."""
