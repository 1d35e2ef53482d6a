"""Key tables: both directions, first match wins, and nothing lands twice or nowhere."""
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vitrail.core.errors import CheckpointError
from vitrail.core.keys import Fold, Keys, Row

TABLE = {"cls_token": "prefix.tokens", "blocks.{}.attn.{}.weight": "blocks.{}.mix.{}.w", "blocks.{}.*": "blocks.{}.*",
         "head.*": "readout.*"}


def test_both_directions():
    keys = Keys(TABLE)
    theirs = {"cls_token": 1, "blocks.0.attn.3.weight": 2, "blocks.11.mlp.fc.bias": 3, "head.weight": 4}
    ours = keys.translate(theirs)
    assert ours == {"prefix.tokens": 1, "blocks.0.mix.3.w": 2, "blocks.11.mlp.fc.bias": 3, "readout.weight": 4}
    assert keys.restore(ours) == theirs
    assert keys.rename("head.bias") == "readout.bias"


def test_the_first_row_wins():
    assert Keys({"a.b": "first", "a.*": "rest.*"}).translate({"a.b": 1, "a.c": 2}) == {"first": 1, "rest.c": 2}
    assert Keys({"a.*": "rest.*", "a.b": "never"}).rename("a.b") == "rest.b"


@pytest.mark.parametrize("key", ["cls_token2", "xcls_token", "blocks.x.norm", "blocks.0.", "head", "", "clsxtoken",
                                 "blocks.0\nattn"])
def test_an_unknown_key_is_an_error(key):
    with pytest.raises(CheckpointError, match=re.escape(repr(key))):
        Keys(TABLE).translate({key: 1})


def test_a_dot_is_a_dot():
    with pytest.raises(CheckpointError):
        Keys({"a.b": "c"}).rename("axb")


def test_dropped_keys_go_in_and_do_not_come_back():
    keys = Keys({"a.*": "b.*"}, drop=["a.{}.index", "mask*"])
    assert keys.rename("a.3.index") is None
    assert keys.translate({"a.3.index": 0, "mask_x": 0, "a.3.w": 1}) == {"b.3.w": 1}
    assert keys.restore({"b.3.w": 1}) == {"a.3.w": 1}


def test_collisions_both_ways():
    with pytest.raises(CheckpointError, match="'one.w' and 'two.w', land on 'x.w'"):
        Keys({"one.*": "x.*", "two.*": "x.*"}).translate({"one.w": 1, "two.w": 2})
    with pytest.raises(CheckpointError, match="'x.w'"):
        Keys({"x.*": "one.*"}, rows=[Row(("x.w",), "two.w")]).restore({"one.w": 1, "two.w": 2})


def test_a_tensor_without_a_place():
    with pytest.raises(CheckpointError, match="no place for the tensor 'extra'"):
        Keys(TABLE).restore({"extra": 1})


JOIN = Row(("{}.q", "{}.k", "{}.v"), "{}.qkv", Fold(lambda q, k, v: (q, k, v), lambda qkv: qkv))


def test_pieces_are_folded_into_one_in_the_order_of_the_row():
    keys = Keys({}, rows=[JOIN])
    state = {"1.v": 3, "0.q": 4, "1.q": 1, "0.k": 5, "1.k": 2, "0.v": 6}
    assert keys.translate(state) == {"1.qkv": (1, 2, 3), "0.qkv": (4, 5, 6)}
    assert keys.restore(keys.translate(state)) == state


def test_a_missing_piece_is_an_error():
    with pytest.raises(CheckpointError, match="'0.qkv' needs 3 tensors"):
        Keys({}, rows=[JOIN]).translate({"0.q": 1, "0.v": 1})


def test_a_fold_of_one():
    keys = Keys({"*": "*"}, rows=[Row(("grid",), "table", Fold(lambda x: x + 1, lambda x: x - 1))])
    assert keys.translate({"grid": 1, "other": 5}) == {"table": 2, "other": 5}
    assert keys.restore({"table": 2, "other": 5}) == {"grid": 1, "other": 5}


word = st.from_regex(r"[a-z]{1,4}", fullmatch=True)
pattern = st.lists(st.one_of(word, st.just("{}")), min_size=1, max_size=4).map(".".join)


@given(st.lists(pattern, min_size=1, max_size=5, unique=True), st.data())
def test_any_table_whose_sides_fit_runs_both_ways(theirs, data):
    """Tables made so that no two rows can match one key: each begins with a word of its own."""
    table = {f"r{chr(97 + i)}.{t}": f"o{chr(97 + i)}.{'.'.join(['{}'] * t.count('{}') + ['end'])}"
             for i, t in enumerate(theirs)}
    state = {}
    for n, row in enumerate(table):
        digits = data.draw(st.lists(st.integers(0, 99), min_size=row.count("{}"), max_size=row.count("{}")))
        state[row.replace("{}", "%d") % tuple(digits)] = n
    keys = Keys(table)
    ours = keys.translate(state)
    assert len(ours) == len(state)
    assert keys.restore(ours) == state
    assert all(ours[keys.rename(k)] == v for k, v in state.items())


@given(st.dictionaries(st.text(min_size=1), st.integers(), max_size=6))
def test_any_key_is_renamed_or_refused_by_name(state):
    keys = Keys(TABLE)
    assume(state)
    try:
        keys.translate(state)
    except CheckpointError as e:
        assert any(repr(k) in str(e) for k in state)
