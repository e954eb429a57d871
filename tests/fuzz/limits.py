"""What any input may cost a parser or a machine of tpid, however it is made."""

MAX_INPUT_S = 1.0  # of processor time: other processes do not count
MAX_GROWTH_BYTES = 300 << 20  # of the process, over all inputs of a run
HANG_S = 30  # of wall time, for inputs that wait instead of compute
