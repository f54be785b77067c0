"""What several data sets check in one way."""

import pytest

from qwen_align.data import settings
from qwen_align.errors import ConfigError


@pytest.mark.parametrize(("key", "limit"), [("problems", 0), ("evaluation_problems", -1)])
def test_less_than_one_row_is_refused(key, limit):
    with pytest.raises(ConfigError, match=rf"^data\.{key}={limit}: expected a whole number from 1 on$"):
        settings.check_limits(**{"problems": 1, "evaluation_problems": None, key: limit})


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_a_share_leaves_rows_for_both_views(share):
    settings.check_held_out(0.15)
    with pytest.raises(ConfigError, match=rf"^data\.held_out={share}: expected a share between 0 and 1"):
        settings.check_held_out(share)


def test_the_held_out_share_is_about_what_was_asked_for():
    share = sum(settings.is_held_out(str(number), 0.15) for number in range(5000)) / 5000
    assert 0.13 < share < 0.17


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("Solve it", r"has the fields \[\]; expected \{a\} and \{b\}"),
        ("{a}", r"has the fields \['a'\]; expected"),
        ("{a} {b} {c}", r"has the fields \['a', 'b', 'c'\]"),
        ("{a} {b} {", "a brace that is text is written twice"),
    ],
)
def test_a_template_has_its_fields_and_no_others(prompt, reason):
    settings.check_template("{b}: {a}, {{braces}} and {a} again", "a", "b")
    with pytest.raises(ConfigError, match=rf"^data\.prompt=.*{reason}"):
        settings.check_template(prompt, "a", "b")
