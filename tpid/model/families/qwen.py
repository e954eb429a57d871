"""What Qwen2 and Qwen3 have in common: windows that are there only where a flag asks for them."""

from collections.abc import Sequence

from tpid.model.families.config import FULL, SLIDING, Config


def windows(config: Config) -> Sequence[int | None]:
    """Of each layer, in tokens."""
    window = config.window()
    if window is None or not config.fields.flag("use_sliding_window", False):
        return (None,) * config.n_layers
    first = config.fields.count("max_window_layers", 28)
    kinds = config.kinds([FULL if layer < first else SLIDING for layer in range(config.n_layers)])
    return [window if kind == SLIDING else None for kind in kinds]
