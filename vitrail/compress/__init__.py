"""Smaller models: changes of structure that are saved with the model."""
