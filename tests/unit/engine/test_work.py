from tpid.device import DeviceId
from tpid.engine.journal import MAX_AWAY, MAX_EVENTS, Away, EventKind, Journal
from tpid.engine.sequence import TokenSequence
from tpid.engine.work import Loading, Queued, Reading, Stage, Work, Writing


def test_the_stages_of_a_request() -> None:
    work, stages = Work("m"), list[Stage]()
    work.changed.notify = lambda: stages.append(work.stage)  # type: ignore[method-assign]
    work.queued(2)
    work.queued(0)
    work.loading()
    work.loading(5, 10)
    sequence = TokenSequence([1, 2, 3, 4])
    work.answers(sequence)
    for n_computed in (1, 3, 4):
        sequence.computed(n_computed)
    sequence.append(5)
    sequence.computed(5)
    sequence.append(6)
    sequence.computed(0)  # a device was lost
    sequence.computed(6)
    assert stages == [
        *(Queued(2), Queued(0), Loading(), Loading(5, 10)),
        *(Reading(1, 4), Reading(3, 4), Writing(0)),
        *(Reading(0, 6), Writing(2)),
    ]
    assert work.n_written == 2
    work.answers(TokenSequence([1]))
    assert work.n_written == 2


def test_who_is_here_and_who_is_gone() -> None:
    now_s = [100.0]
    journal = Journal(lambda: now_s[0])
    desktop = DeviceId("d")
    journal.joined(desktop, "desktop")
    assert journal.here_since_s == {desktop: 100.0}
    now_s[0] = 160.0
    journal.lost(desktop, "desktop", "It is silent.", in_plan=True)
    journal.failed("pi did nothing.")
    journal.recovered(["laptop", "pi"])
    assert journal.here_since_s == {}
    assert journal.away == (Away(desktop, "desktop", 160.0, "It is silent."),)
    assert [(event.kind, event.device) for event in journal.events] == [
        (EventKind.JOINED, "desktop"),
        (EventKind.LOST, "desktop"),
        (EventKind.FAILED, ""),
        (EventKind.RECOVERED, "laptop, pi"),
    ]
    assert [event.number for event in journal.after(2)] == [3, 4]
    journal.joined(desktop, "desktop")
    assert journal.away == ()


def test_what_is_kept_has_an_end() -> None:
    journal = Journal()
    for number in range(2 * MAX_EVENTS):
        journal.lost(DeviceId(str(number)), f"device-{number}", "", in_plan=False)
    assert len(journal.events) == MAX_EVENTS
    assert len(journal.away) == MAX_AWAY
    assert journal.events[-1].number == journal.n_events == 2 * MAX_EVENTS
