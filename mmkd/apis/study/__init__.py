"""Studies: a plan in git, runs paired by seed, small results and a report."""
