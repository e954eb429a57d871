import math

import pytest

from tpictl.commands.sampling import SETTINGS, Sampling, change, check_finite
from tpid.api.chat_body import ChatBody
from tpid.errors import RequestError


def test_what_is_not_chosen_is_left_to_the_daemon() -> None:
    assert Sampling().as_body() == {}
    assert Sampling(temperature=0.0, seed=0, stop=("a",)).as_body() == {"temperature": 0.0, "seed": 0, "stop": ("a",)}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.2", 0.2),
        ("top-k", "40", 40),
        ("top_p", "1", 1.0),
        ("seed", "-7", -7),
        ("max_tokens", "256", 256),
        ("stop", "two words", ("two words",)),
    ],
)
def test_change(name: str, text: str, value: object) -> None:
    changed = change(Sampling(), name, text)
    assert changed.chosen()[name.replace("-", "_")] == value
    assert change(changed, name, "default") == Sampling()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temprature", "0.2", "Did you mean temperature?"),
        ("xyz", "1", "There are temperature, "),
        ("temperature", "warm", "needs a number, not 'warm'"),
        ("temperature", "inf", "needs a number"),
        ("top_k", "1.5", "needs a whole number"),
        ("seed", "", "/set seed 7"),
    ],
)
def test_what_cannot_be_set_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        change(Sampling(), name, text)
    assert message in str(caught.value)


def test_options_must_be_finite() -> None:
    assert check_finite(Sampling(top_p=0.9)) == Sampling(top_p=0.9)
    with pytest.raises(RequestError, match="temperature is nan"):
        check_finite(Sampling(temperature=math.nan))


def test_every_setting_is_a_field_of_the_request() -> None:
    assert set(SETTINGS) <= set(ChatBody.model_fields)
    assert set(SETTINGS) == set(Sampling().chosen())
