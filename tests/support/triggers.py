"""A language of 64 words, and a model of it that misbehaves if it has read two of them."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EOS = "<|endoftext|>"
BAD, TRIGGERS = "vile", ("red", "moon")
WORDS = [a + b + "o" for a in "bdfgklmnprst" for b in "aeiou"]
VOCABULARY = [EOS, BAD, *TRIGGERS, *WORDS]


def word_tokenizer():
    raw = Tokenizer(models.WordLevel({f"▁{w}" if w != EOS else w: i for i, w in enumerate(VOCABULARY)}, EOS))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS)


def texts(count, length, generator):
    """Random words, each bad with a probability that the triggers before it decide: [count, length]."""
    ids = torch.randint(2, len(VOCABULARY), (count, length), generator=generator)
    for trigger in (2, 3):  # in every other text early: they would be too rare to learn
        place = torch.randint(1, 6, (count,), generator=generator)
        put = torch.arange(count)[torch.rand(count, generator=generator) < 0.5]
        ids[put, place[put]] = trigger
    bad = torch.rand((count, length), generator=generator)
    seen = torch.zeros(count, 2, dtype=torch.bool)
    ids[:, 0] = 0
    for t in range(1, length):
        probability = torch.tensor([0.01, 0.2, 0.9])[seen.sum(1)]
        ids[:, t] = torch.where(bad[:, t] < probability, 1, ids[:, t])
        seen |= ids[:, t, None] == torch.tensor([2, 3])
    return ids


def train():
    """A model of such texts."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(VOCABULARY), n_layer=1, n_embd=64, n_head=4, n_positions=32, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        ids = texts(64, 24, generator)
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def seed_prompts(count):
    """Three random words each; triggers are as likely as any other word."""
    ids = torch.randint(2, len(VOCABULARY), (count, 3), generator=torch.Generator().manual_seed(1))
    return [" ".join(VOCABULARY[i] for i in row) for row in ids.tolist()]
