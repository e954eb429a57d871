import subprocess
import sys

import pytest

import tpid.compute.native.library as native
from tpid.compute.select import choose_compute
from tpid.errors import ConfigError
from tpid.plan.footprint import BACKENDS


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an install without a compiler."""
    monkeypatch.setattr(native, "load", lambda path=None: None)


def test_torch_is_chosen_by_name() -> None:
    compute = choose_compute("torch", 1)
    assert compute.name == "torch"
    assert compute.measure_read_bytes_s() > 0


@pytest.mark.usefixtures("no_kernels")
def test_auto_falls_back_to_torch_and_says_what_that_costs(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_compute("auto", 1).name == "torch"
    assert "not built" in caplog.text
    assert "slower" in caplog.text


@pytest.mark.usefixtures("no_kernels")
def test_native_that_was_not_built_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="not built"):
        choose_compute("native", 1)


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(("wanted", "word"), [("auto", "neither"), ("torch", "torch is not installed")])
def test_without_kernels_and_torch_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, wanted: str, word: str
) -> None:
    monkeypatch.setitem(sys.modules, "tpid.compute.torch_compute", None)
    with pytest.raises(ConfigError, match=rf"{word}.*C compiler.*tpid\[torch\]"):
        choose_compute(wanted, 1)


@pytest.mark.skipif(native.load() is None, reason="the native kernels are not built")
def test_the_native_backend_comes_without_torch() -> None:
    code = (
        "import sys; from tpid.compute.select import choose_compute; c = choose_compute('auto', 1); "
        "assert c.name == 'native' and c.measure_read_bytes_s() > 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(native.load() is None, reason="the native kernels are not built")
def test_the_planner_learns_what_the_cache_is_made_of() -> None:
    names = [choose_compute("native", 1, kv_dtype=dtype).name for dtype in ("f16", "int8")]
    assert names == ["native", "native-kv8"]
    assert set(names) <= set(BACKENDS)
