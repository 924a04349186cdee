"""Class probabilities of images by the papers' test protocols; prediction, export and `ctxseg.load`."""
