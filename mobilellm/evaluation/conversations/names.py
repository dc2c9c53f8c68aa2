"""Names of the tasks on conversations, of their measures, and of the answers that are compared."""

API_CALLING, CHAT = "api_calling", "chat"
TASKS = (API_CALLING, CHAT)
"""The task on conversations with functions, and that on conversations without."""

CONSTRAINED, RANDOM, MAJORITY = "constrained", "random", "majority"
"""Answers beside the free ones of the model: its constrained calls, and the two baselines."""

OF_CALLS = ("intent", "structure", "valid_call")
"""Shares of the function calls; also given apart for functions seen and unseen in training."""
OF_REPLIES = ("needless_call", "rouge_1", "rouge_l")
"""Means over the replies."""
LOSSES = ("parser_nats_per_token", "assistant_nats_per_token")
SEEN, UNSEEN = "_seen", "_unseen"
"""Ends of the names of measures of calls of functions that were, and were not, in training."""
SHARES = (*(name + end for name in OF_CALLS for end in ("", SEEN, UNSEEN)), "needless_call")
"""Measures that are shares of turns."""
