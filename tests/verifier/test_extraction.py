"""Which text of a solution is its final answer."""

import pytest

from qwen_align.verifier.extraction import MAX_BOX, MAX_TRIES, final_answer, marked


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then #### 2", "2"),
        (r"#### 1 then \fbox 2", "2"),
        ("the answer is 3. So 4", "3"),
        ("Answer: 5 because 6 is wrong", "5"),
        ("first 7, then 8 apples", "8 apples"),
        ("so -9", "-9"),
        ("10 -3", "3"),
        (r"\boxed{}", ""),
        ("<|im_end|>#### 2<|im_end|>", "2"),
        ("no idea", None),
    ],
)
def test_a_marker_comes_before_a_phrase_and_a_phrase_before_the_last_number(solution, answer):
    assert final_answer(solution, numeric=True) == answer


def test_a_heading_is_no_marker_where_a_number_is_asked_for():
    text = "#### Step 2\nThe answer is 4."
    assert final_answer(text, numeric=True) == "4"
    assert final_answer(text, numeric=False) == "Step 2"


def test_the_last_formula_counts_where_no_number_is_asked_for():
    assert final_answer(r"So $x$, or \(\pi/2\), in 3 steps", numeric=False) == r"\pi/2"


def test_markers_come_with_what_follows_them():
    assert marked(r"a \boxed{1} b #### 2", numeric=True) == [r"\boxed{1} b ", "#### 2"]


def test_unclosed_boxes_are_stepped_over_only_so_often():
    assert final_answer(r"\boxed{7} 8" + r" \boxed{" * 3, numeric=True) == "7"
    assert final_answer(r"\boxed{7} 8" + r" \boxed{" * (MAX_TRIES + 1), numeric=True) == "8"


def test_a_box_that_does_not_close_in_reach_holds_no_answer():
    assert final_answer(r"\boxed{" + "1" * (MAX_BOX + 1) + "} 2", numeric=True) == ""
