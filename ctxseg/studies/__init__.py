"""Many runs: tables of the papers, sweeps, and what contexts cost."""
