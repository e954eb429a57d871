"""What becomes of a packet in chains of rules, of which some are about it, some not, and of some nobody knows."""

import pytest

from tpid.cluster.firewall.walk import Fits, Passes, Rule, Verdict, all_of, passes

YES, NO, PERHAPS = Fits.YES, Fits.NO, Fits.PERHAPS
ACCEPT, DROP = Verdict.ACCEPT, Verdict.DROP


@pytest.mark.parametrize(
    ("rules", "accepts", "answer"),
    [
        ([], True, Passes.YES),
        ([], False, Passes.NO),
        ([Rule(YES, DROP)], True, Passes.NO),
        ([Rule(NO, DROP)], True, Passes.YES),
        ([Rule(PERHAPS, DROP)], True, Passes.UNSURE),
        ([Rule(PERHAPS, ACCEPT), Rule(YES, ACCEPT), Rule(YES, DROP)], False, Passes.YES),
        ([Rule(PERHAPS, ACCEPT)], False, Passes.UNSURE),
        ([Rule(YES, Verdict.RETURN), Rule(YES, DROP)], True, Passes.YES),
        ([Rule(YES, Verdict.JUMP, "drops"), Rule(YES, ACCEPT)], True, Passes.NO),
        ([Rule(YES, Verdict.JUMP, "returns"), Rule(YES, ACCEPT)], False, Passes.YES),
        ([Rule(YES, Verdict.GOTO, "returns"), Rule(YES, ACCEPT)], False, Passes.NO),  # nothing follows a goto
        ([Rule(PERHAPS, Verdict.JUMP, "drops"), Rule(YES, ACCEPT)], False, Passes.UNSURE),
        ([Rule(YES, Verdict.JUMP, "nowhere"), Rule(YES, ACCEPT)], False, Passes.YES),
        ([Rule(YES, Verdict.JUMP, "in"), Rule(YES, ACCEPT)], False, Passes.YES),  # in a circle
    ],
)
def test_the_first_rule_that_decides_decides(rules: list[Rule], accepts: bool, answer: Passes) -> None:
    chains = {"in": rules, "drops": [Rule(YES, DROP)], "returns": [Rule(YES, Verdict.RETURN), Rule(YES, DROP)]}
    assert passes(chains, "in", accepts=accepts) is answer


def test_chains_that_branch_without_end_end() -> None:
    rules = [Rule(PERHAPS, Verdict.JUMP, "in"), Rule(PERHAPS, Verdict.JUMP, "in")]
    assert passes({"in": rules}, "in", accepts=True) is Passes.UNSURE


def test_a_packet_must_pass_all_filters() -> None:
    assert all_of([Passes.YES, Passes.UNSURE, Passes.NO]) is Passes.NO
    assert all_of([Passes.YES, Passes.UNSURE]) is Passes.UNSURE
    assert all_of([]) is Passes.YES
