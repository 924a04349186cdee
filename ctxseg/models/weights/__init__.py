"""Pretrained weights: files of several publishers, into the variables of a segmenter (SPEC §10).

`source.py` opens a file and recognises whose names it has; `backbone.py` says whether its backbone is that of a network; `fit.py` fills the
network from it. Each publisher has a file with a table of names.
"""
