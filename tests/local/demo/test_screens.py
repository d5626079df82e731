"""What the tour shows on terminals of five sizes, character by character, as a terminal reads it.

`python -m tests.local.demo.scenes` writes the screens after a change of the layout: look at them.
"""

import pytest
from tests.local.demo import scenes


@pytest.mark.parametrize("size", scenes.SIZES)
def test_everything_is_on_the_screen_at_once(size):
    assert scenes.screen(scenes.resumed(), size).text == (scenes.SCREENS / f"{size}.txt").read_text()


@pytest.mark.parametrize("size", [*scenes.SIZES, "60x24", "80x18", "300x90"])
@pytest.mark.parametrize("moment", [scenes.running, scenes.killed, scenes.resumed])
def test_a_frame_fills_the_screen_and_no_more(size, moment):
    terminal = scenes.screen(moment(), size)
    assert terminal.display[0].startswith(" headrace demo")
    assert terminal.display[-1].startswith(" Slowed down")


@pytest.mark.parametrize("size", scenes.SIZES)
def test_kill_and_resumption_are_told_beside_the_streams_they_befell(size):
    assert 'dies at token 111 of "A dictionary is"' in scenes.screen(scenes.killed(), size).text
    shown = scenes.screen(scenes.resumed(), size).text
    assert "resumed on engine A at token 112" in shown
    assert shown.count("resumed at ") == 2
    assert shown.count("cut off at token ") == 1
    assert "killed with -9" in shown


def test_text_after_a_kill_has_the_colour_of_the_engine_that_made_it():
    pieces = list(scenes.resumed().streams[1].text_by_owner())
    assert [owner for owner, _ in pieces] == ["B"] * 111 + ["A"] * 20


def test_the_facts_fit_a_small_terminal():
    assert scenes.end("80x24").text == (scenes.SCREENS / "end-80x24.txt").read_text()
