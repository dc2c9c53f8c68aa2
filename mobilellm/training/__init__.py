"""Training with Lightning: module, data module, trainer, loggers; budgets and losses without it."""
