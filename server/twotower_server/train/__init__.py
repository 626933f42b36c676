"""Training: interactions and feature tables → a model folder. The only part that needs PyTorch."""
