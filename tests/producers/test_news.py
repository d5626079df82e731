"""Waiting for news with a limit, and with few timers."""

import asyncio

from headrace.producers.news import News

LONG_S, SHORT_S = 3600.0, 0.05


async def test_a_wait_ends_with_news_or_after_its_time():
    news = News()
    asyncio.get_running_loop().call_later(SHORT_S, news.set)
    assert await news.wait(LONG_S)
    assert await news.wait(LONG_S), "there is still something to take"
    news.clear()
    assert not await news.wait(SHORT_S), "though a timer for later is armed"
    news.close()


async def test_a_timer_that_an_earlier_wait_left_armed_does_not_end_a_later_one():
    news = News()
    loop = asyncio.get_running_loop()
    loop.call_soon(news.set)
    assert await news.wait(SHORT_S)
    news.clear()
    loop.call_later(4 * SHORT_S, news.set)
    assert await news.wait(LONG_S)
    news.close()


async def test_a_cancelled_wait_leaves_the_news_to_the_next():
    news = News()
    waiting = asyncio.create_task(news.wait(LONG_S))
    await asyncio.sleep(0)
    waiting.cancel()
    news.set()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await news.wait(LONG_S)
    news.close()
