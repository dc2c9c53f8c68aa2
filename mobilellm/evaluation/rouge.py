"""Rouge: overlap of the words of a text with those of a reference.

Words are runs of the letters a to z and digits, in lower case and without stemming, as in the
package `rouge_score` with its defaults; texts in other alphabets have no words.

Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence

_WORD = re.compile(r"[a-z0-9]+")


def rouge_1(reference: str, text: str) -> float:
    """F-measure of the words that two texts have in common, from 0 to 1.

    A word counts as often as it occurs in both. The result is 0 if a text has no words.
    """
    wanted, given = _words(reference), _words(text)
    common = (Counter(wanted) & Counter(given)).total()
    return _f_measure(common, len(wanted), len(given))


def rouge_l(reference: str, text: str) -> float:
    """F-measure of the longest common subsequence of the words of two texts, from 0 to 1.

    The result is 0 if a text has no words.
    """
    wanted, given = _words(reference), _words(text)
    return _f_measure(common_subsequence_length(wanted, given), len(wanted), len(given))


def common_subsequence_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the longest sequence that both contain, in order but with gaps.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited": bit i of a column is 0 if
    the length grows at element i of `first`.
    """
    places: dict[Hashable, int] = {}
    for index, element in enumerate(first):
        places[element] = places.get(element, 0) | 1 << index
    every = (1 << len(first)) - 1
    column = every
    for element in second:
        matches = column & places.get(element, 0)
        column = (column + matches | column - matches) & every
    return len(first) - column.bit_count()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _f_measure(common: int, wanted: int, given: int) -> float:
    """Harmonic mean of common / given (precision) and common / wanted (recall)."""
    return 2 * common / (wanted + given) if common else 0.0
