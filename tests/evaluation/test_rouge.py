"""Rouge against the package `rouge_score`, and against a table of subsequences."""

import random

import pytest

from mobilellm.evaluation.rouge import common_subsequence_length, rouge_1, rouge_l

WORDS = ["the", "The", "fox's", "42", "ran", "über", "a-b", "...", "don't", "東京", "\n"]


def texts(count=60):
    generator = random.Random(0)
    made = [" ".join(generator.choices(WORDS, k=generator.randrange(40))) for _ in range(count)]
    return [*made, "", "...", "the"]


def naive_length(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            longer = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else longer
    return table[-1][-1]


def test_values_are_those_of_the_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    package = scorer.RougeScorer(["rouge1", "rougeL"])
    every = texts()
    for reference, text in zip(every, reversed(every), strict=True):
        expected = package.score(reference, text)
        assert rouge_1(reference, text) == pytest.approx(expected["rouge1"].fmeasure)
        assert rouge_l(reference, text) == pytest.approx(expected["rougeL"].fmeasure)


def test_the_longest_common_subsequence_is_that_of_the_table():
    every = texts()
    for first, second in zip(every, reversed(every), strict=True):
        assert common_subsequence_length(first, second) == naive_length(first, second)
