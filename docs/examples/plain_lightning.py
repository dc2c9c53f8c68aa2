"""Train, compress in three stages and distil with Lightning's own Trainer.

    python docs/examples/plain_lightning.py TEXT_FOLDER RUN_FOLDER

The same command resumes an interrupted run from its last checkpoint. `mobilellm train` gives the
same metrics and weights, bit for bit, with the same settings.
"""

import sys
from functools import partial

from lightning.pytorch import Trainer

from mobilellm.callbacks import CheckpointCallback, CompressionCallback, DistillationCallback
from mobilellm.checkpoint import save_model
from mobilellm.compression import Factorization, SizeBudget
from mobilellm.data import TextData, prepare_data
from mobilellm.distillation import ForwardKL
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.initialization import initialize_
from mobilellm.optim import adamw
from mobilellm.optim.schedules import cosine
from mobilellm.training import CSVLogger, LanguageModelModule, TokenDataModule, TrainingBudget

text, folder = sys.argv[1:]
data = TokenDataModule(
    prepare_data(TextData(train=text, vocab_size=512, prepared_dir=f"{folder}/prepared")),
    sequence_length=32, micro_batch_size=4, samples_per_step=4, validation_tokens=512, seed=0,
)  # fmt: skip
model = MobileLLM(
    ModelConfig(
        vocab_size=512, hidden_size=16, intermediate_size=32, num_blocks=3, num_attention_heads=2
    )
)
initialize_(model, std="hidden", residual_scaling=True, seed=0)
module = LanguageModelModule(
    model,
    optimizer=partial(adamw, learning_rate=2e-3),
    schedule=cosine(warmup_fraction=0.05),
    budget=TrainingBudget(tokens_per_step=128, max_tokens=2304),
)

# The part about compression and distillation: the teacher is the model before compression.
recipe = Factorization(budget=SizeBudget(ratio=0.5))
compression = CompressionCallback(recipe, num_stages=3, calibration_tokens=256)
distillation = DistillationCallback("dense", {"forward_kl": ForwardKL(weight=0.5)})
callbacks = [compression, distillation, CheckpointCallback(f"{folder}/checkpoints")]
for stage in compression.stages(module, data, folder, keep_dense=True):
    trainer = Trainer(
        max_steps=stage.max_steps, callbacks=callbacks, logger=CSVLogger(folder), accelerator="cpu"
    )
    trainer.fit(stage.module, data, ckpt_path=stage.checkpoint)
    module = stage.module
save_model(module.model, f"{folder}/model")
