"""The training step, which is a pure function of state and batch; its parts; and the training loop."""
