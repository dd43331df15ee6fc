import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from objectives.view import BAD_TAG, GOOD_TAG
from phf.base.errors import ConfigError, PhfError
from phf.store.tokenizer import EOS_TOKEN, SegmentEncoder, load_tokenizer, train_tokenizer

LINES = ["def add(a, b):\n", "    return a + b\n", "\n", "x = 'é✓'  # 中\n"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([LINES] * 5, 300)


def encode(tokenizer, segments) -> list[list[int]]:
    tokens, lengths = SegmentEncoder(tokenizer).encode(segments)
    assert len(lengths) == len(segments)
    ends = lengths.cumsum()
    assert len(tokens) == (ends[-1] if len(ends) else 0)
    return [tokens[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def test_a_trained_tokenizer_knows_its_corpus(tokenizer):
    assert 257 < len(tokenizer) <= 300
    assert tokenizer.eos_token == EOS_TOKEN
    assert tokenizer.eos_token_id == 0
    (merged,) = encode(tokenizer, ["    return a + b\n"])
    assert len(merged) < len("    return a + b\n")


@pytest.mark.slow
@given(st.lists(st.text() | st.sampled_from([EOS_TOKEN, f"a {GOOD_TAG} b", BAD_TAG * 2]), max_size=8))
def test_any_text_comes_back_and_never_holds_a_mark(segments):
    tokenizer = train_tokenizer([LINES], 270)
    tokenizer.add_special_tokens({"additional_special_tokens": [GOOD_TAG, BAD_TAG]})
    marks = set(tokenizer.all_special_ids)
    for segment, ids in zip(segments, encode(tokenizer, segments), strict=True):
        assert not marks & set(ids)
        assert tokenizer.decode(ids) == segment.encode("utf-8", "replace").decode("utf-8")


def test_each_segment_is_encoded_on_its_own(tokenizer, monkeypatch):
    monkeypatch.setattr("phf.store.tokenizer._SLICE", 3)
    segments = LINES * 3
    together = encode(tokenizer, segments)
    assert together == [encode(tokenizer, [segment])[0] for segment in segments]
    assert together[:4] == together[4:8]


def test_the_tokenizer_is_left_as_it_is(tokenizer):
    tokenizer.model_max_length = 4
    before = tokenizer.backend_tokenizer.to_str()
    assert len(encode(tokenizer, ["def add(a, b): return a + b and more of it"])[0]) > 4
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_mark_that_is_an_ordinary_added_token_stays_text():
    tokenizer = train_tokenizer([LINES], 270)
    tokenizer.add_tokens([AddedToken(GOOD_TAG, special=False)])
    (ids,) = encode(tokenizer, [f"x{GOOD_TAG}y"])
    assert tokenizer.convert_tokens_to_ids(GOOD_TAG) not in ids
    assert tokenizer.decode(ids) == f"x{GOOD_TAG}y"


def unigram(pieces, eos) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, unk_token=pieces[0][0])


def test_a_mark_among_the_pieces_of_text_is_cut():
    letters = [(c, -3.0) for c in "</s>ab"]
    tokenizer = unigram([("<unk>", -9.0), ("</s>", -1.0), *letters], "</s>")
    (ids,) = encode(tokenizer, ["a</s>b"])
    assert tokenizer.eos_token_id not in ids
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "a</s>b"


def test_a_tokenizer_that_writes_unknown_text_as_its_mark_is_refused():
    tokenizer = unigram([("<eos>", -9.0), ("a", -1.0)], "<eos>")
    assert encode(tokenizer, ["aa"]) == [[1, 1]]
    with pytest.raises(PhfError, match="encodes unknown text as its mark <eos>: use a byte-level one"):
        encode(tokenizer, ["aa", "ab"])


def test_a_saved_tokenizer_is_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert encode(loaded, LINES) == encode(tokenizer, LINES)
    assert (loaded.eos_token, len(loaded)) == (EOS_TOKEN, len(tokenizer))


def test_a_tokenizer_that_cannot_be_used_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer.name: .*nowhere is neither a folder") as error:
        load_tokenizer(tmp_path / "nowhere")
    assert "\n" not in str(error.value)
    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    backend.train_from_iterator(["a"], trainers.WordLevelTrainer())
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "no_eos")
    with pytest.raises(ConfigError, match="no_eos has no eos token"):
        load_tokenizer(tmp_path / "no_eos")


@pytest.mark.parametrize("unit", ["x", " "])
def test_a_long_run_does_not_hold_up_the_training(unit):
    start = time.monotonic()
    tokenizer = train_tokenizer([["a few words\n" * 9, unit * 500_000]], 300)
    assert time.monotonic() - start < 10
    assert unit * 16 in {tokenizer.decode([i]) for i in range(len(tokenizer))}
