"""Which weights are in memory, and how they get there."""
