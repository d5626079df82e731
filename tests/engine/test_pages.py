"""Pages are conserved, found again, and evicted in order, whatever is done with them."""

import random

import pytest

from headrace.engine.pages import PagePool


def key_of(pool, *contents, salt=""):
    """The key of the last of these pages, one after the other."""
    key = pool.root(salt)
    for content in contents:
        key = pool.key_of(key, content)
    return key


def remember(pool, pages, contents, salt=""):
    for count, page in enumerate(pages, 1):
        pool.remember(page, key_of(pool, *contents[:count], salt=salt))


def test_a_released_page_is_found_until_it_is_taken_for_something_else():
    pool = PagePool(3, 2)
    (page,) = pool.allocate(1)
    remember(pool, [page], [(1, 2)])
    pool.release([page])
    assert pool.find(key_of(pool, (1, 2))) is page
    pool.allocate(2)
    assert pool.find(key_of(pool, (1, 2))) is None


def test_pages_without_content_are_taken_before_cached_ones():
    pool = PagePool(4, 2)
    cached, plain = pool.allocate(2)
    remember(pool, [cached], [(1, 2)])
    pool.release([cached])
    pool.release([plain])
    taken = pool.allocate(2)
    assert plain in taken
    assert cached not in taken


def test_the_end_of_a_sequence_is_evicted_before_its_beginning():
    pool = PagePool(4, 2)
    pages = pool.allocate(3)
    remember(pool, pages, [(1, 2), (3, 4), (5, 6)])
    pool.release(pages)
    assert pool.allocate(3) == pages[::-1]


def test_keys_are_of_a_secret_that_no_two_processes_share_so_that_none_can_be_forged():
    pools = [PagePool(2, 2), PagePool(2, 2)]
    roots = [pool.root("tenant") for pool in pools]
    assert roots[0] != roots[1]
    assert pools[0].key_of(roots[0], (1, 2)) != pools[1].key_of(roots[0], (1, 2))
    assert len(pools[0].key_of(roots[0], (1, 2))) == 16


def test_a_key_is_of_the_salt_and_of_every_token_from_the_beginning_on():
    pool = PagePool(2, 2)
    prefixes = [[(a, b)] for a in range(-3, 3) for b in range(-3, 3)]  # hash(-1) == hash(-2) in Python
    prefixes += [[(1, 2), (3, 4)], [(3, 4), (1, 2)], [(1, 2), (1, 2)], [(1, 2), (1, 2), (3, 4)]]
    keys = {key_of(pool, *prefix, salt=salt) for prefix in prefixes for salt in ("", "a", "b")}
    assert len(keys) == 3 * len(prefixes)
    assert key_of(pool, (1, 2), (3, 4)) == key_of(pool, [1, 2], [3, 4])


def test_forgotten_pages_are_not_found_and_their_successors_are():
    pool = PagePool(4, 2)
    pages = pool.allocate(2)
    remember(pool, pages, [(1, 2), (3, 4)])
    pool.forget([pages[0]])
    pool.forget([pages[0]])
    assert pool.find(key_of(pool, (1, 2))) is None
    assert pool.find(key_of(pool, (1, 2), (3, 4))) is pages[1]
    pool.check([pages])
    pool.release(pages)
    pool.check([])


def test_a_content_known_already_keeps_its_first_page():
    pool = PagePool(3, 2)
    first, second = pool.allocate(2)
    remember(pool, [first], [(1, 2)])
    remember(pool, [second], [(1, 2)])
    assert pool.find(key_of(pool, (1, 2))) is first
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
            contents = [(rng.randint(0, 5),) * 2 for _ in pages]
            remember(pool, pages, contents, salt=rng.choice("abcd"))
            held.append(pages)
        elif action < 0.6:
            found = pool.find(key_of(pool, (rng.randint(0, 5),) * 2, salt=rng.choice("abcd")))
            if found is not None:
                pool.hold(found)
                held.append([found])
        elif held:
            pool.release(held.pop(rng.randrange(len(held))))
        pool.check(held)
