"""A run's folder: its owner, its contents and the data that it was trained on."""
