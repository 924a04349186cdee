"""A run's folder: whose it is, what it holds, what data it is of."""
