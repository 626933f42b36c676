"""Towers: ONNX graphs that turn encoded features into embeddings."""
