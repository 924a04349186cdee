"""The fields of a config: which fields exist, which are used, and how files and the command line set them."""
