"""Headings of the measures of tasks on conversations."""

TITLES = {
    "intent": "intent",
    "structure": "structure",
    "valid_call": "valid",
    "needless_call": "needless",
    "rouge_1": "Rouge-1",
    "rouge_l": "Rouge-L",
    "parser_nats_per_token": "loss calls",
    "assistant_nats_per_token": "loss replies",
}
"""Heading of each measure."""
