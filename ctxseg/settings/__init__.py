"""The fields of a config: which there are, which are read, and how files and the command line change them."""
