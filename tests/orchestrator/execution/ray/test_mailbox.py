"""Lost messages are sent again, and repeated ones are handled once."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.execution.ray import mailbox
from orchestrator.execution.ray.mailbox import Mailbox


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "ASK_SECONDS", 0.05)


def test_a_request_waits_for_its_answer() -> None:
    async def talk() -> None:
        mailbox = Mailbox()
        asked = asyncio.create_task(mailbox.ask({"worker": "a", "ended": None}))
        assert await mailbox.receive(1.0) == [{"worker": "a", "ended": None}]
        await mailbox.answer({"b": {"attempt": 2}, "a": {"attempt": 1}}, set())
        assert await asked == {"attempt": 1}
        assert await mailbox.ask({"worker": "b", "ended": None}) == {"attempt": 2}
        assert mailbox.answers == {}

    asyncio.run(talk())


def test_a_late_answer_is_returned_to_the_repeated_request() -> None:
    async def talk() -> None:
        mailbox = Mailbox()
        assert await mailbox.ask({"worker": "a", "ended": None}) is None
        await mailbox.answer({"a": {"attempt": 1}}, set())
        assert await mailbox.ask({"worker": "a", "ended": None}) == {"attempt": 1}
        assert len(await mailbox.receive(1.0)) == 2, "the driver receives both and recognises the repetition"

    asyncio.run(talk())


def test_reports_are_delivered_once_and_return_whether_to_end() -> None:
    async def talk() -> None:
        mailbox = Mailbox()
        assert not await mailbox.report(7, [{"epoch": 1.0}])
        await mailbox.answer({}, {7})
        assert await mailbox.report(7, [{"epoch": 2.0}])
        assert not await mailbox.report(8, [{"epoch": 1.0}])
        assert [message["attempt"] for message in await mailbox.receive(1.0)] == [7, 7, 8]
        assert await mailbox.receive(0.01) == []

    asyncio.run(talk())
