"""The tokenizer of small bases: every word whole, and the same numbers in every process."""

import os
import subprocess
import sys

from tuner.bundled import world
from tuner.models.tokens import byte_pairs, tokenizer

SHOW = "from tuner.models.tokens import byte_pairs; print(byte_pairs({'cat', 'car', 'cart', 'grumpy', 'grump', 'art'}))"


def test_every_word_of_the_world_is_one_token():
    words = [word for word in world.vocabulary() if word.isalpha() and word.isascii()]
    tokens = tokenizer(words, 24)
    assert len(words) > 1000
    assert [word for word in words if tokens.tokenize(word) != [f"{word}</w>"]] == []
    assert tokens("a Grumpy CAT").input_ids == tokens("a grumpy cat").input_ids


def test_unknown_words_and_signs_fall_apart_and_come_back():
    tokens = tokenizer(["zebra", "fish"], 24)
    for text in ("zebrafish", "straße", "猫 x 7!"):
        ids = tokens(text, add_special_tokens=False).input_ids
        assert len(ids) > 1 and tokens.eos_token_id not in ids
        assert tokens.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_the_order_does_not_depend_on_the_process():
    made = {
        subprocess.run(
            [sys.executable, "-c", SHOW], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert made == {f"{byte_pairs({'art', 'cart', 'car', 'cat', 'grump', 'grumpy'})}\n"}
