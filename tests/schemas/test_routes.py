"""Model aliases: how they share requests out, and what is refused."""

import pytest

from headrace import BadPolicy, ModelRoute

USERS = [f"user-{number}" for number in range(4000)]


def shares(route: ModelRoute) -> dict[str, str]:
    return {user: route.choose(user) for user in USERS}


def test_users_are_shared_out_by_weight_and_keep_their_model() -> None:
    route = ModelRoute.make("chat", {"small": 95, "large": 5})
    chosen = shares(route)
    assert chosen == shares(ModelRoute.make("chat", {"large": 5, "small": 95}))
    assert 0.04 < list(chosen.values()).count("large") / len(USERS) < 0.06
    assert ModelRoute.read(route.to_wire()) == route


def test_no_more_users_move_than_the_new_weights_ask_for() -> None:
    before = shares(ModelRoute.make("chat", {"small": 95, "large": 5}))
    after = shares(ModelRoute.make("chat", {"small": 95, "large": 25}))
    moved = [(before[user], after[user]) for user in USERS if before[user] != after[user]]
    assert set(moved) == {("small", "large")}
    assert 0.13 < len(moved) / len(USERS) < 0.19


def test_who_gets_what_differs_from_alias_to_alias() -> None:
    one, other = (shares(ModelRoute.make(name, {"a": 1, "b": 1})) for name in ("one", "other"))
    assert 0.45 < sum(one[user] == other[user] for user in USERS) / len(USERS) < 0.55


def test_without_anybody_a_model_is_drawn_by_chance() -> None:
    route = ModelRoute.make("chat", {"a": 1, "b": 1, "c": 1_000_000})
    drawn = [route.choose(None) for _ in range(200)]
    assert drawn.count("c") >= 190


@pytest.mark.parametrize(
    ("alias", "targets", "said"),
    [
        ("a b", {"m": 1}, "alias = 'a b'"),
        ("", {"m": 1}, "alias = ''"),
        ("chat", {"x y": 1}, "targets: 'x y' is not a model's name"),
        ("chat", {}, "targets"),
        ("chat", {"m": 0}, "targets.m = 0"),
        ("chat", {"m": -1}, "targets.m = -1"),
        ("chat", {"m": 1.5}, "targets.m = 1.5"),
        ("chat", {"m": True}, "targets.m = True"),
        ("chat", {"m": 10**7}, "targets.m = 10000000"),
        ("chat", {f"m{number}": 1 for number in range(17)}, "targets"),
    ],
    ids=range(10),
)
def test_what_is_wrong_with_an_alias_is_named(alias: str, targets: dict[str, int], said: str) -> None:
    with pytest.raises(BadPolicy) as raised:
        ModelRoute.make(alias, targets)
    assert said in str(raised.value)


def test_a_record_that_can_not_be_read_is_no_alias() -> None:
    for record in (None, b"", b"{", b"{}", b'{"alias": "a", "targets": {"m": 0}}'):
        assert ModelRoute.read(record) is None
