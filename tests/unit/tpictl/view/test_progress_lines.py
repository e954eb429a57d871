import pytest

from tpictl.client.answers import DeviceEvent, Stage
from tpictl.view.progress_lines import event_line, ordinal, stage_line


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")]
)
def test_ordinals(number: int, text: str) -> None:
    assert ordinal(number) == text


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        (Stage("queue", ahead=3), "4th in the queue"),
        (Stage("queue"), "waiting"),
        (Stage("load"), "loading the model"),
        (Stage("prefill", done_tokens=1, total_tokens=3), "reading the prompt 33 %"),
        (Stage("decode", tokens=3), "writing"),
        (Stage("of a newer daemon"), "waiting"),
    ],
)
def test_stages(stage: Stage, line: str) -> None:
    assert stage_line(stage) == line


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (DeviceEvent(1, 0.0, "lost", "pi", False, "It left."), "pi is lost: It left. It had no part in this answer."),
        (
            DeviceEvent(1, 0.0, "lost", "pi", True, "Device pi at 192.168.1.7:7474 has been silent for 2.5 s."),
            "pi has been silent for 2.5 s. The others compute its share.",
        ),
        (
            DeviceEvent(1, 0.0, "lost", "pi at home", True, "Device pi at home at [::1]:7474 left: it shuts down"),
            "pi at home left: it shuts down. The others compute its share.",
        ),
        (DeviceEvent(1, 0.0, "failed", "", True, "pi did nothing."), "pi did nothing. The answer goes on without it."),
    ],
)
def test_events(event: DeviceEvent, line: str) -> None:
    assert event_line(event) == line
