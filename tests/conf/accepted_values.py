"""What the extreme values that are accepted mean: all others are refused.

A row: key pattern, probes that are accepted, and their meaning. The tests fail for a value that is
accepted without a row here, and for a row whose values are refused.
"""

# Any text has a meaning: names, labels, columns, prompts, shell lines.
FREE_TEXT = (
    "experiment_name", "data.name", "data.*split", "data.*column", "data.*prompt", "data.*_role",
    "data.document", "data.sources.*.document", "data.dataset_*", "data.revision",
    "logger.wandb.project",
    "logger.wandb.group", "hydra.launcher.partition", "hydra.launcher.account",
    "hydra.launcher.qos", "hydra.launcher.constraint", "hydra.launcher.container",
    "hydra.launcher.python", "callbacks.evaluation.tasks*",
)  # fmt: skip
# A path: whether it exists is seen when it is read or made, in the same command.
PATHS = ("output_dir", "prepared_dir", "data.*dir", "data.train", "data.validation",
         "data.sources.*.train", "data.tokenizer", "out", "text",
         "callbacks.evaluation.data", "adapter.initial")  # fmt: skip

ROWS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("seed", ("zero",), "0 is a seed"),
    ("show", ("zero",), "no conversation is shown"),
    ("learning_rate_probe_seed", ("zero",), "0 is a seed"),
    ("learning_rate_probe_widenings", ("zero",), "no further rates are tried"),
    ("search.seed", ("zero",), "0 is a seed"),
    ("search.constraints.context", ("zero",), "an empty KV cache"),
    ("search.pruning.margin", ("zero",), "every worse trial may be ended"),
    ("search.finalists", ("zero",), "no trial is trained again"),
    ("max_steps", ("huge",), "another limit or a signal ends the run"),
    ("max_seconds", ("huge",), "another limit or a signal ends the run"),
    ("gradient_clip_norm", ("huge",), "the gradient is never as long, so it is not clipped"),
    ("validation_interval_tokens", ("huge",), "validated at the start and the end only"),
    ("validation_tokens", ("huge",), "all of the validation split"),
    ("log_interval_steps", ("huge",), "logged at the first step, validations and the end"),
    ("windows_per_shard", ("huge",), "one file for all windows"),
    ("model.?os_token_id", ("zero",), "0 is a token"),
    ("data.eos_token_id", ("zero",), "0 is a token"),
    ("optimizer.weight_decay", ("zero",), "no decay"),
    ("optimizer.learning_rate", ("huge",), "training diverges, and is stopped for it"),
    ("optimizer.muon_learning_rate_ratio", ("huge",), "training diverges, and is stopped for it"),
    ("optimizer.vector_learning_rate_ratio", ("huge",), "training diverges, and is stopped for it"),
    ("optimizer.momentum", ("zero",), "no momentum: each step follows its own gradient"),
    ("schedule.warmup_fraction", ("zero",), "no warm-up"),
    ("schedule.decay_fraction", ("zero",), "the rate does not fall"),
    ("schedule.final_fraction", ("zero",), "the rate falls to 0"),
    ("compression.first_start", ("zero",), "compressed before the first step"),
    ("compression.sparsity", ("zero",), "nothing is pruned: a baseline"),
    ("adapter.dropout", ("zero",), "no dropout"),
    ("distillation.cross_entropy_weight", ("zero",), "the teacher alone is learnt"),
    ("distillation.losses.*.weight", ("zero",), "the loss is only logged"),
    ("distillation.losses.dpo.label_smoothing", ("zero",), "no pair is the wrong way round"),
    ("distillation.rationale_weight", ("zero",), "rationales are only measured"),
    ("distillation.num_random", ("zero",), "the largest and the smallest shape alone"),
    ("distillation.distillation_weight", ("zero",), "the labels alone"),
    ("callbacks.loss_guard.spike_*", ("huge",), "no loss is a spike"),
    ("callbacks.loss_guard.limit", ("huge",), "never stopped for this"),
    ("callbacks.checkpoint.every_*", ("huge",), "saved at validations and the end only"),
    ("callbacks.label_accuracy.*_questions", ("huge",), "all questions"),
    ("callbacks.evaluation.*limit", ("huge",), "all documents"),
    ("callbacks.label_accuracy.batch_tokens", ("huge",), "all questions in one batch"),
    ("hydra.launcher.gpus_per_node", ("zero",), "no GPUs"),
    ("hydra.launcher.signal_seconds", ("zero",), "no warning before the end"),
    ("hydra.launcher.max_requeues", ("zero",), "never requeued"),
    ("hydra.launcher.sbatch_options", ("a mapping",), "any option of sbatch"),
)  # fmt: skip
