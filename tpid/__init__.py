"""tpid: the devices a person owns serve one large language model together."""

__version__ = "0.1.0"
