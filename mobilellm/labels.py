"""Which tokens are trained: the marks in prepared conversations, and the labels in a batch."""

IGNORE_INDEX = -100
"""Label of tokens that losses ignore: the default `ignore_index` of torch's cross entropy."""
LABELS = "labels"
"""Field with the next token of each position, (batch, seq)."""
ANSWER_LABELS = "answer_labels"
"""In batches of preferences: the next tokens of better and worse answers, (batch, seq)."""
LABEL_FIELDS = (LABELS, ANSWER_LABELS)
MARK_TRAINED, MARK_REJECTED = 1, 2
"""In prepared conversations: marks of trained tokens, and of those of the worse answer of a pair;
other tokens have 0."""
