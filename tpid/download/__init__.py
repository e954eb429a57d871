"""Fetching published models: what a name means, which files it takes, and their bytes, which can go on later."""
