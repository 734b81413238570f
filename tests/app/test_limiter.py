"""Operations that run concurrently, limited in number."""

from __future__ import annotations

from mvpnet.app.limiter import CapacityLimiter


def test_turns_come_in_order_and_so_many_at_once() -> None:
    turns, began = CapacityLimiter(2), {}
    for name in "abcd":
        turns.ask(lambda over, name=name: began.update({name: over}))
    assert list(began) == ["a", "b"]
    began["a"]()
    began["a"]()
    assert list(began) == ["a", "b", "c"]
    began["b"]()
    began["c"]()
    assert list(began) == ["a", "b", "c", "d"]
