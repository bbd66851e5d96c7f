import json
import math

from tests.figures import dump, environment, rounded


def test_json_has_neither_nan_nor_more_digits_than_were_measured():
    value = {"a": [math.nan, -math.inf, 1.23456e-16], "b": 3, "c": {"d": "1.23456", "e": 0.0}}
    assert rounded(value) == {
        "a": ["nan", "-inf", 1.23e-16],
        "b": 3,
        "c": {"d": "1.23456", "e": 0.0},
    }
    assert rounded(1.23456, 4) == 1.235


def test_what_holds_no_other_is_a_line():
    value = {"a": {"b": [1, 2], "c": []}, "d": {}, "e": "é", "f": [{"g": 1}]}
    assert json.loads(dump(value)) == value
    assert dump(value).splitlines() == [
        "{",
        ' "a": {',
        '  "b": [1, 2],',
        '  "c": []',
        " },",
        ' "d": {},',
        ' "e": "é",',
        ' "f": [',
        '  {"g": 1}',
        " ]",
        "}",
    ]


def test_where_it_was_measured():
    found = environment()
    assert found.keys() == {"hardware", "versions", "date"}
    assert {"python", "torch", "jax", "flax"} <= found["versions"].keys()
    assert "cores" in found["hardware"]
