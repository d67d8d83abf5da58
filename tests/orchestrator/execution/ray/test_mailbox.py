"""What is lost on the way is said again, and what comes twice is done once."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.execution.ray import mailbox
from orchestrator.execution.ray.mailbox import Switchboard


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "ASK_SECONDS", 0.05)


def test_a_question_is_answered_once_there_is_an_answer() -> None:
    async def talk() -> None:
        board = Switchboard()
        asked = asyncio.create_task(board.ask({"lane": "a", "ended": None}))
        assert await board.hear(1.0) == [{"lane": "a", "ended": None}]
        await board.answer({"b": {"attempt": 2}, "a": {"attempt": 1}}, set())
        assert await asked == {"attempt": 1}
        assert await board.ask({"lane": "b", "ended": None}) == {"attempt": 2}
        assert board.answers == {}

    asyncio.run(talk())


def test_an_answer_that_comes_late_is_there_when_it_is_asked_for_again() -> None:
    async def talk() -> None:
        board = Switchboard()
        assert await board.ask({"lane": "a", "ended": None}) is None
        await board.answer({"a": {"attempt": 1}}, set())
        assert await board.ask({"lane": "a", "ended": None}) == {"attempt": 1}
        assert len(await board.hear(1.0)) == 2, "the driver hears both, and knows that they are one"

    asyncio.run(talk())


def test_news_are_heard_once_and_say_whether_to_end() -> None:
    async def talk() -> None:
        board = Switchboard()
        assert not await board.say(7, [{"epoch": 1.0}])
        await board.answer({}, {7})
        assert await board.say(7, [{"epoch": 2.0}])
        assert not await board.say(8, [{"epoch": 1.0}])
        assert [message["attempt"] for message in await board.hear(1.0)] == [7, 7, 8]
        assert await board.hear(0.01) == []

    asyncio.run(talk())
