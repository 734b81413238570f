import pytest

from mvpnet.dataplane.broadcast_tree import children, parent


@pytest.mark.parametrize("size", range(1, 101))
def test_a_broadcast_reaches_every_rank_once(size: int) -> None:
    for root in {0, size // 3, size - 1}:
        reached, depth = [root], {root: 0}
        for rank in reached:
            for child in children(rank, root, size):
                assert parent(child, root, size) == rank
                assert child not in depth
                depth[child] = depth[rank] + 1
                reached.append(child)
        assert sorted(reached) == list(range(size))
        assert max(depth.values()) <= size.bit_length()
        assert parent(root, root, size) is None


def test_no_rank_passes_on_more_than_twice() -> None:
    assert max(len(children(rank, 5, 1000)) for rank in range(1000)) == 2
