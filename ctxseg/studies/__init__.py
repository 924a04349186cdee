"""Studies of many runs: tables of the papers, sweeps, and the costs of contexts."""
