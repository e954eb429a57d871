"""How the daemon's log is set up, in a process of its own: it changes the root logger."""

import subprocess
import sys

_CODE = """
import logging
from tpid.daemon.config import Config
from tpid.daemon.main import _set_up_logging
_set_up_logging(Config(name="100%s", log_level={level!r}))
for number in range(200):
    logging.getLogger("tpid.test").warning("refused number=%d", number)
"""


def _lines(level: str) -> list[str]:
    code = _CODE.format(level=level)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return result.stderr.splitlines()


def test_a_line_that_comes_again_and_again_is_left_out_and_the_device_is_named_as_it_is() -> None:
    lines = _lines("info")
    assert 0 < len(lines) < 100
    assert lines[0].endswith(" WARNING device=100%s tpid.test refused number=0")


def test_debug_leaves_nothing_out() -> None:
    assert len(_lines("debug")) == 200
