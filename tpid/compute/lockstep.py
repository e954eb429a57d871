"""All ranks of a pass in one process, one block at a time: the reference for tests and self-tests."""

from collections.abc import Callable, Sequence

import numpy as np

from tpid.compute.backend import BlockWeights
from tpid.compute.forward import Need, NeedBlock, Pass, Reduce
from tpid.model.weights import F32
from tpid.pack.geometry import Block


def run_lockstep(passes: Sequence[Pass], weights: Callable[[int, Block], BlockWeights]) -> list[F32]:
    """Run the ranks' passes to their end; gives each rank's final hidden states.

    `weights(rank, block)` answers NeedBlock. Partials are summed in rank order, as the star does it.
    """
    needs: list[Need] = [next(walk) for walk in passes]
    results: list[F32] = []
    while not results:
        if all(isinstance(need, NeedBlock) for need in needs):
            answers = [weights(rank, need.block) for rank, need in enumerate(needs) if isinstance(need, NeedBlock)]
            needs = [walk.send(answer) for walk, answer in zip(passes, answers, strict=True)]
            continue
        partials = [need.partial for need in needs if isinstance(need, Reduce)]
        if len(partials) != len(passes):
            raise RuntimeError("the ranks' passes are out of step")
        total = np.sum([partial for partial in partials if partial is not None], axis=0, dtype=np.float32)
        needs = []
        for walk in passes:
            try:
                needs.append(walk.send(total))
            except StopIteration as end:
                results.append(end.value)
    return results
