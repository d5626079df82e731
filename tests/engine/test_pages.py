"""Pages are conserved, found again, and evicted in order, whatever is done with them."""

import random

import pytest

from headrace.engine.pages import PagePool


def chain(pool, parent, pages, tokens):
    for page, content in zip(pages, tokens, strict=True):
        parent = pool.remember(page, parent, content)
    return parent


def test_a_released_page_is_found_until_it_is_taken_for_something_else():
    pool = PagePool(3, 2)
    (page,) = pool.allocate(1)
    pool.remember(page, 0, (1, 2))
    pool.release([page])
    assert pool.find(0, (1, 2)) is page
    pool.allocate(2)
    assert pool.find(0, (1, 2)) is None


def test_pages_without_content_are_taken_before_cached_ones():
    pool = PagePool(4, 2)
    cached, plain = pool.allocate(2)
    pool.remember(cached, 0, (1, 2))
    pool.release([cached])
    pool.release([plain])
    taken = pool.allocate(2)
    assert plain in taken
    assert cached not in taken


def test_the_end_of_a_sequence_is_evicted_before_its_beginning():
    pool = PagePool(4, 2)
    pages = pool.allocate(3)
    chain(pool, 0, pages, [(1, 2), (3, 4), (5, 6)])
    pool.release(pages)
    assert pool.allocate(3) == pages[::-1]


def test_equal_hashes_with_other_tokens_are_no_hit():
    pool = PagePool(3, 2)
    (page,) = pool.allocate(1)
    key = pool.remember(page, 0, (1, 2))
    page.token_ids = (9, 9)  # as if another content had the same hash
    assert pool.find(0, (1, 2)) is None
    assert page.key == key


def test_a_content_known_already_keeps_its_first_page():
    pool = PagePool(3, 2)
    first, second = pool.allocate(2)
    assert pool.remember(first, 0, (1, 2)) == pool.remember(second, 0, (1, 2))
    assert pool.find(0, (1, 2)) is first
    assert second.key is None


def test_a_page_released_twice_is_noticed():
    pool = PagePool(3, 2)
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(pages)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_walk_conserves_every_page(seed):
    rng = random.Random(seed)
    pool, held = PagePool(20, 2), []
    for _ in range(2000):
        action = rng.random()
        if action < 0.45 and pool.free:
            pages = pool.allocate(rng.randint(1, min(4, pool.free)))
            chain(pool, rng.randint(0, 3), pages, [(rng.randint(0, 5),) * 2 for _ in pages])
            held.append(pages)
        elif action < 0.6:
            found = pool.find(rng.randint(0, 3), (rng.randint(0, 5),) * 2)
            if found is not None:
                pool.hold(found)
                held.append([found])
        elif held:
            pool.release(held.pop(rng.randrange(len(held))))
        pool.check(held)
