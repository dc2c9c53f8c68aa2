"""The sentences at the top of the page of a search."""

from collections.abc import Iterator

from mobilellm.report.search.results import SearchResults
from mobilellm.units import count_text, plural


def findings(results: SearchResults) -> list[str]:
    """What the search has found, the most important first."""
    if not results.finished:
        return ["No trial has finished, so there is no result."]
    return list(_findings(results))


def _findings(results: SearchResults) -> Iterator[str]:
    first, best = results.objectives[0], results.ranked[0]
    value = (best.trial.values or (0.0,))[0]
    top = f"{first.superlative.capitalize()} {first.name}: {value:.4g}"
    yield f"{top}, by trial {best.record.number} ({best.label})."
    if len(results.objectives) > 1:
        yield f"The front has {plural(len(results.front), 'trial')}."
    states = {status: sum(one.trial.status == status for one in results.trials)
              for status in ("finished", "pruned", "failed")}  # fmt: skip
    ended = ", ".join(f"{number} {status}" for status, number in states.items() if number)
    text = f"{plural(len(results.trials), 'trial')}: {ended}; "
    text += f"{count_text(results.tokens_used)} tokens in all"
    saved = results.share_saved
    yield text + ("." if saved is None else f", {100 * saved:.0f} % fewer than without pruning.")
    if results.latency_check is not None:
        yield results.latency_check.sentence
    yield _largest(results, value)
    yield _trust(results)


def _largest(results: SearchResults, best: float) -> str:
    largest = results.largest_body
    if largest is None or largest.record.number == results.ranked[0].record.number:
        return "The best trial is also the finished one with the largest body."
    value = (largest.trial.values or (0.0,))[0]
    return (
        f"The finished trial with the largest body (trial {largest.record.number}) has "
        f"{value:.4g}, {value - best:+.4g} compared with the best."
    )


def _trust(results: SearchResults) -> str:
    tau = results.rank_correlation
    if results.finalists and tau is None:
        return "Three finalists are needed to say how well short training ranks the shapes."
    if tau is None:
        return (
            "The trials were not trained again, so it is not known how well they rank longer "
            "training; search.finalists=4 trains the best ones with several seeds."
        )
    longest = min(results.finalists, key=lambda one: one.mean)
    return (
        f"After longer training with several seeds, trial {longest.number} has the lowest mean "
        f"loss; Kendall's tau between the ranks of short and long training is {tau:.2f} over "
        f"{len(results.finalists)} finalists."
    )
