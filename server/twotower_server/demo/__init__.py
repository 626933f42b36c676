"""The demo: a generated catalog with users and their tastes, and towers trained on it."""
