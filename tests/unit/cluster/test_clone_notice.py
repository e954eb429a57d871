"""A copy of this device is told of while it is there, and not for longer."""

from tpid.cluster.clone_notice import KEPT_S, CloneNotice


def test_one_that_was_met_is_told_of_until_it_has_not_come_for_long() -> None:
    notice = CloneNotice()
    assert notice.at(0.0) is None
    notice.met("10.0.0.2:7474", "a copy", 0.0)
    notice.met("10.0.0.2:7474", "a copy", 10.0)
    told = notice.at(KEPT_S + 9.9)
    assert told is not None
    assert (told.code, told.address, told.reason) == ("cloned", "10.0.0.2:7474", "a copy")
    assert notice.at(KEPT_S + 10.0) is None


def test_one_that_is_announced_is_told_of_until_its_announcement_goes() -> None:
    notice = CloneNotice()
    notice.announced("one", "10.0.0.2:7474", "a copy")
    assert notice.at(1e9) is not None
    assert not notice.vanished("another")
    assert notice.vanished("one")
    assert notice.at(1e9) is None
