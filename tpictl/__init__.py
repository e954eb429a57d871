"""tpictl: the command line, which speaks to the local daemon and to nothing else."""
