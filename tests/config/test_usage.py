"""The help page."""

from qwen_align.config import groups, usage


def test_every_group_is_there_with_its_options():
    for group in groups.names():
        assert f"  {group:<11} {', '.join(groups.options(group))}\n" in usage.text()


def test_a_users_own_options_are_there(tmp_path, monkeypatch):
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "zz_mine.yaml").write_text("_target_: mine.py:short\n")
    monkeypatch.setattr(groups, "extra", [tmp_path])
    assert ", zz_mine\n" in usage.text()


def test_it_says_how_to_bring_a_function_of_ones_own():
    assert "reward=FILE.py:FUNCTION" in usage.text() and "data.verifier=FILE.py:FUNCTION" in usage.text()
