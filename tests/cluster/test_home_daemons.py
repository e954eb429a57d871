"""Real daemons on the hosts of a home find each other over its network, and answer as one device does."""

from pathlib import Path

from homelab.faults import Faults
from homelab.home import Home

PROMPT = "What is the capital of France? Tell me about it."
# Too little for the model on one: the plan needs all three, however slow this machine makes them look.
SMALL = {"memory_budget": "176M", "context_tokens": 512}


def test_three_hosts_find_each_other_and_answer_as_one(wired: Home, models: Path) -> None:
    user, *helpers = wired.hosts
    wired.start_daemon(user, models)
    user.daemon.wait("its API", lambda status: True)
    alone = user.daemon.ask("smollm2-135m", PROMPT, 24)
    user.daemon.stop()

    wired.start_daemons(models, use_all_devices=True, **SMALL)
    together = user.daemon.ask("smollm2-135m", PROMPT, 24)
    assert "Paris" in alone.text
    assert together.text == alone.text
    assert {rank["name"] for rank in user.daemon.status()["plan"]["ranks"]} == {host.name for host in wired.hosts}

    faults = Faults(wired, models)
    faults.make(["kill", helpers[0].name])
    wired.wait_whole(names={user.name, helpers[1].name})
    faults.make(["start", helpers[0].name])
    wired.wait_whole()


def test_daemons_whose_mdns_is_blocked_find_each_other_by_peers(wired: Home, models: Path) -> None:
    user, helper, other = wired.hosts
    helper.link.block_mdns()
    for host in (helper, other, user):
        wired.start_daemon(host, models)
    helper.daemon.wait("mDNS", lambda status: status["cluster"]["discovery"].startswith("on"))
    wired.wait_whole(names={user.name, other.name})
    assert len(helper.daemon.status()["cluster"]["devices"]) == 1
    other.daemon.stop()
    user.daemon.stop()
    wired.start_daemon(user, models, peers=[f"{helper.addresses[0]}:7474"])
    wired.wait_whole(names={user.name, helper.name})
