import pytest

from tpid.engine.generation import GenerationStats
from tpid.engine.tally import Histogram, Outcome, Tally
from tpid.errors import BusyError, DeviceLostError, ModelNotFoundError, RequestError


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RequestError("Bad."), "refused"),
        (BusyError("Busy."), "refused"),
        (ModelNotFoundError("None."), "refused"),
        (DeviceLostError("Gone."), "failed"),
        (ValueError("A fault of ours."), "failed"),
        (GeneratorExit(), "cancelled"),
        (None, "cancelled"),
    ],
)
def test_how_a_request_ends(error: BaseException | None, outcome: Outcome) -> None:
    tally = Tally()

    def end() -> None:
        with tally.request():
            if error is not None:
                raise error

    if error is None:
        end()
    else:
        with pytest.raises(type(error)):
            end()
    assert tally.requests == {outcome: 1}


def test_an_answered_request_is_one_whoever_reads_on() -> None:
    tally = Tally()

    def end() -> None:
        with tally.request() as running:
            running.answered = True
            raise GeneratorExit

    with pytest.raises(GeneratorExit):
        end()
    assert tally.requests == {"answered": 1}


def test_the_prompt_of_several_answers_counts_once() -> None:
    tally = Tally()
    stats = GenerationStats(7, 2, 3, ttft_s=0.5, decode_s=0.2, queue_s=0.1)
    tally.answer(stats, is_first=True)
    tally.answer(stats, is_first=False)
    assert (tally.prompt_tokens, tally.cached_tokens, tally.completion_tokens) == (7, 2, 6)
    assert (sum(tally.queue_s.counts), sum(tally.ttft_s.counts), sum(tally.tpot_s.counts)) == (1, 1, 2)
    assert tally.tpot_s.sum == pytest.approx(0.2)


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.5):
        histogram.add(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 7.0
