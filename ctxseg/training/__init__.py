"""The step, a pure function of state and batch, the loop around it, and what they are made of."""
