"""A trial is in exactly one state after any sequence of changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.execution.trial_states import SETTLED, WAITING, State, TrialStates

MOVES = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(State)), max_size=40)


@given(MOVES)
def test_it_agrees_with_a_plain_dictionary(moves: list[tuple[str, State]]) -> None:
    states, plain = TrialStates(), dict[str, State]()
    for key, state in moves:
        states.enter(key, state)
        plain.pop(key, None)  # so that the order is that of the last move
        plain[key] = state
    for state in State:
        assert states.keys(state) == [key for key, one in plain.items() if one == state]
    assert states.count(*State) == len(plain)
    assert states.count(*WAITING) == sum(state in WAITING for state in plain.values())
    assert states.all_in(SETTLED) == all(state in SETTLED for state in plain.values())
