"""The release: one immutable, verified, named unit of towers, schema, item vectors, index and calibration."""
