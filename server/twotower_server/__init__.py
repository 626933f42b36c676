"""The twotower server: two-tower recommendation models over gRPC, served release by release."""
