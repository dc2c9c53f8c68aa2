"""Tokenizers of 64 tokens, and models whose output is known, for tests of saved models."""

import torch

from mobilellm.checkpoint import save_model
from mobilellm.models import MobileLLM, ModelConfig

TEXT = "the quick brown fox jumps over the lazy dog and runs away from the big bad wolf again\n"
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
"""Special tokens as in the tokenizers of T5."""


def make_tokenizer(folder, **options):
    """Path of a SentencePiece model of 64 tokens, made in the folder."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text(TEXT * 40, encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "words"), minloglevel=2,
        **{"vocab_size": 64, "model_type": "bpe", **options},
    )  # fmt: skip
    return folder / "words.model"


def make_constant_model(token, **changes):
    """A model that predicts the same token after every other."""
    config = ModelConfig(
        **{"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 1,
           "num_attention_heads": 2, "tie_word_embeddings": False, **changes}
    )  # fmt: skip
    model = MobileLLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight.fill_(1)
        model.norm.weight.fill_(1)
        model.head.weight[token] = 1
    return model


def save_run(folder):
    """Write the folder of a run: `model/` with an untrained model and a tokenizer of 64 tokens."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_blocks=2, num_attention_heads=2
    )
    save_model(MobileLLM(config), folder / "model", make_tokenizer(folder / "tokenizer"))
    return folder


def make_byte_level(folder, *, vocab_size=300, settings=None, template=None, text=TEXT):
    """Path of a byte-level tokenizer.json with three special tokens, made in the folder."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(exist_ok=True, parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings is None:
        settings = {
            "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        }  # fmt: skip
    if settings:
        text = json.dumps(settings)
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder / "tokenizer.json"


def make_byte_fallback(folder):
    """Path of a tokenizer.json as Llama's, with spaces as U+2581 and rare characters as bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b",
              "▁a", "é"]  # fmt: skip
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    made = Tokenizer(
        models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"
