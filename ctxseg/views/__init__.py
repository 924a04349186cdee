"""Output for people: figures, pictures and HTML pages."""
