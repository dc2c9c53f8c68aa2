"""Names of settings in other tools, with the keys of the same settings here."""

from collections.abc import Iterable

# Our key, with a remark if one is needed, and the names of the setting in other tools.
NAMES: dict[str, str] = {
    "optimizer.learning_rate": "lr learning_rate max_lr peak_lr base_lr",
    "optimizer.weight_decay": "weight_decay wd",
    "optimizer.betas": "betas beta1 beta2 adam_beta1 adam_beta2",
    "optimizer.eps": "eps epsilon adam_epsilon",
    "optimizer.momentum (optimizer=muon)": "momentum",
    "optimizer=adamw or muon": "optim optimizer_name",
    "schedule=cosine, wsd or constant": "scheduler lr_scheduler lr_scheduler_type",
    "schedule.warmup_fraction, or schedule.warmup_steps": (
        "warmup warmup_steps warmup_ratio warmup_iters num_warmup_steps warmup_fraction"
    ),
    "schedule.final_fraction, a share of the peak": "min_lr final_lr lr_min min_lr_ratio",
    "schedule.decay_fraction (schedule=wsd)": "decay_fraction decay_ratio",
    "tokens_per_step (windows × sequence_length); micro_batch_size only sets the memory use": (
        "batch_size bs train_batch_size global_batch_size per_device_train_batch_size mbs "
        "accumulate_grad_batches gradient_accumulation_steps grad_accum"
    ),
    "epochs": "epoch num_epochs max_epochs num_train_epochs n_epochs",
    "max_tokens": ("tokens total_tokens limit_train_batches"),
    "max_steps, or max_tokens": (
        "max_iters iters iterations num_iterations steps num_steps train_steps max_train_steps "
        "total_steps max_steps"
    ),
    "max_seconds": "max_time time_limit",
    "sequence_length": (
        "block_size context_length seq_len seq_length max_seq_len max_seq_length max_length "
        "context n_ctx"
    ),
    "gradient_clip_norm": "grad_clip clip max_grad_norm gradient_clip_val clip_grad grad_norm",
    "validation_interval_tokens": (
        "eval_interval eval_every eval_steps val_check_interval validation_interval "
        "check_val_every_n_epoch"
    ),
    "validation_tokens": "eval_iters limit_val_batches val_tokens eval_tokens",
    "log_interval_steps": "log_interval log_every logging_steps log_every_n_steps",
    "seed": "random_seed manual_seed rng_seed",
    "init_from": "pretrained model_name_or_path checkpoint load_from from_pretrained",
    "resume": "resume_from_checkpoint ckpt_path resume_from",
    "output_dir": "out out_dir save_dir output log_dir default_root_dir",
    "experiment_name": "name run_name project exp_name",
    "model.num_blocks": "n_layer n_layers num_layers layers depth num_hidden_layers",
    "model.hidden_size": "d_model n_embd dim width embed_dim hidden_dim d_hidden",
    "model.intermediate_size": "d_ff ffn_dim d_inner mlp_dim ffn_hidden_size intermediate_dim",
    "model.num_attention_heads": "n_head n_heads num_heads heads",
    "model.num_key_value_heads": "n_kv_head n_kv_heads num_kv_heads kv_heads",
    "model.head_dim": "d_head head_size",
    "model.vocab_size": "vocab_size n_vocab",
    "model.max_position_embeddings": "max_positions n_positions",
    "model.tie_word_embeddings": "tie_weights tie_embeddings share_embedding",
    "model.budget (model=by_budget)": "params num_params budget",
    "data=text data.train": "dataset data_dir data_path train_file train_data train",
    "data.validation": "val_file validation_file val_data validation",
    "data.tokenizer": "tokenizer tokenizer_path tokenizer_name",
    "data.workers": "num_workers workers",
    "trainer.devices": "gpus n_gpu num_gpus devices ngpus",
    "trainer.num_nodes": "nodes nnodes num_nodes",
    "trainer.accelerator": "device accelerator cuda",
    "trainer.precision": "precision dtype bf16 fp16 mixed_precision",
    "trainer.strategy": "strategy ddp fsdp",
    "trainer.compile": "compile torch_compile",
    "trainer.activation_checkpointing": "gradient_checkpointing activation_checkpointing",
    "initialization.std": "init_std initializer_range std",
    "parametrization=completep or mup, with parametrization.base_width": (
        "mup use_mup mup_enabled parameterization parametrisation completep base_shape"
    ),
    "compression=low_rank compression.budget.ratio": "ratio compression_ratio",
    "compression=wanda compression.sparsity": "sparsity prune prune_ratio",
    "distillation=forward_kl distillation.teacher": "teacher teacher_model",
    "temperature of the loss, distillation.losses.forward_kl.temperature": (
        "temperature kd_temperature"
    ),
    "logger=wandb": "wandb use_wandb report_to wandb_project",
    "logger=tensorboard": "tensorboard",
    "a callback, callbacks.NAME._target_=…": "callbacks callback",
    "callbacks.progress": "enable_progress_bar progress_bar",
    "callbacks.checkpoint": "enable_checkpointing checkpointing",
    "callbacks.checkpoint.every_steps or every_seconds": (
        "save_steps save_every save_interval ckpt_interval"
    ),
    "not available: these models have no dropout": "dropout attn_dropout resid_pdrop",
}
MEANT = {name: ours for ours, names in NAMES.items() for name in names.split()}


def meant_by(key: str, known: Iterable[str] = ()) -> str | None:
    """Our key for a setting of another tool; None if the name is unknown.

    Args:
        key: the last part of the dotted key that the user wrote.
        known: the names that are valid at that place; if given, only one of them is returned.
    """
    ours = MEANT.get(key)
    names = list(known)
    if ours is None or not names:
        return ours
    leaf = ours.split()[0].rstrip(",").rpartition(".")[2]
    return leaf if leaf in names else None
