"""The daemon as tpictl sees it: the connection, the calls, and what comes back."""
