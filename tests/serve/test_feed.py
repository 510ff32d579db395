"""Events from computing threads: all of them, in order, with few wake-ups."""

from __future__ import annotations

import asyncio
import threading

from localllm.engine.scheduler import Event
from localllm.generation import Accounting
from localllm.serve.answering.feed import MAX_PENDING, Courier, Feed

ACCOUNT = Accounting(1, 0, 1, 0.0, 0.0, 0.0, "stop", 0)


def test_every_event_arrives_in_order_from_several_threads() -> None:
    async def scene() -> list[list[str]]:
        courier = Courier(asyncio.get_running_loop())
        feeds = [Feed(courier, 1) for _ in range(4)]

        def compute(feed: Feed) -> None:
            for i in range(5000):
                feed.tell(Event(0, str(i)))
                if i % 7 == 0:
                    courier.flush()
            feed.tell(Event(0, "", accounting=ACCOUNT))
            courier.flush()

        async def read(feed: Feed) -> list[str]:
            found = []
            while feed.n_left:
                found += [event.text for event in await feed.next()]
            return found

        threads = [threading.Thread(target=compute, args=(feed,)) for feed in feeds]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(30):
            found = await asyncio.gather(*map(read, feeds))
        for thread in threads:
            thread.join()
        return found

    expected = [*map(str, range(5000)), ""]
    assert asyncio.run(scene()) == [expected] * 4


def test_a_step_wakes_the_loop_once() -> None:
    class Counting(asyncio.SelectorEventLoop):
        n_calls = 0

        def add_reader(self, fd, callback, *args):  # type: ignore[no-untyped-def]
            def counted() -> None:
                self.n_calls += 1
                callback(*args)

            return super().add_reader(fd, counted)

    loop = Counting()
    courier = Courier(loop)
    feeds = [Feed(courier, 1) for _ in range(64)]
    for feed in feeds:
        feed.tell(Event(0, "x"))
    courier.flush()
    found = [loop.run_until_complete(feed.next()) for feed in feeds]
    assert loop.n_calls == 1
    assert [len(events) for events in found] == [1] * 64
    loop.close()
    courier.put(feeds[0], Event(0, "late"))
    courier.flush()  # nobody waits any more: no error either


def test_a_whole_answer_comes_at_its_end() -> None:
    async def scene() -> None:
        courier = Courier(asyncio.get_running_loop())
        feed = Feed(courier, 2, whole=True)
        feed.tell(Event(0, "a"))
        feed.tell(Event(0, "b", accounting=ACCOUNT))
        courier.flush()
        waiting = asyncio.create_task(feed.next())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        feed.tell(Event(1, "c", accounting=ACCOUNT))
        courier.flush()
        events = await waiting
        assert [event.text for event in events] == ["a", "b", "c"]
        assert feed.n_left == 0

    asyncio.run(scene())


def test_who_never_reads_is_given_up() -> None:
    class Request:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    async def scene() -> bool:
        courier, request = Courier(asyncio.get_running_loop()), Request()
        feed = Feed(courier, 1)
        feed.bind(request)  # type: ignore[arg-type]
        for _ in range(MAX_PENDING + 1):
            feed.tell(Event(0, "x"))
        courier.flush()
        await asyncio.sleep(0.05)
        return request.cancelled and feed.overrun

    assert asyncio.run(scene())
