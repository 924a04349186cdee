"""Detectors of objects, and the operations that they are made of. SPEC §9.

A box is float32 (left, top, right, bottom), in pixels of the image, in continuous coordinates: the box of a whole image is (0, 0, W, H).
"""
