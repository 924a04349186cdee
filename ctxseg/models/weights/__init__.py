"""Pretrained weights: files of several publishers, into the variables of a segmenter (SPEC §10).

`source.py` opens a file and recognises whose names it has; `fit.py` fills a segmenter from it. Each publisher has a file with a table of
names.
"""
