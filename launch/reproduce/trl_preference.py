"""The values of TRL's preference losses, for `tests/preference_test.py`.

  python3 -m venv trl
  trl/bin/pip install torch transformers trl==1.16.0 accelerate datasets
  trl/bin/python launch/reproduce/trl_preference.py

A tiny random Llama and another as its reference are given four pairs of
responses of different lengths; TRL's `DPOTrainer` says what the loss is. The
log-probs of the tokens are taken from the models here, apart from TRL. Writes
`tests/trl_preference.json`. Seconds on one core.
"""

import json
import pathlib
import tempfile

import torch
import transformers
import trl  # pyright: ignore[reportMissingImports]
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from tokenizers import Tokenizer, models, pre_tokenizers

OUT = pathlib.Path(__file__).parents[2] / 'tests' / 'trl_preference.json'
PROMPT = 3  # tokens
LENGTHS = (5, 2), (1, 6), (4, 4), (7, 3)  # chosen, rejected
CASES = ('sigmoid', 0.1), ('sigmoid', 2.0), ('ipo', 0.1), ('ipo', 0.5)
VOCABULARY = 20


def model_of(seed):
  torch.manual_seed(seed)
  config = transformers.LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    initializer_range=0.8,
  )
  return transformers.LlamaForCausalLM(config).eval()


def inputs_of():
  """All chosen responses, then all rejected ones, as TRL's collator has it."""
  draw = torch.Generator().manual_seed(0)
  lengths = [n for half in zip(*LENGTHS, strict=True) for n in half]
  width = PROMPT + max(lengths)
  ids = torch.randint(2, VOCABULARY, (len(lengths), width), generator=draw)
  at = torch.arange(width)[None]
  until = PROMPT + torch.tensor(lengths)[:, None]
  return {
    'input_ids': torch.where(at < until, ids, 0),
    'attention_mask': (at < until).long(),
    'completion_mask': ((at >= PROMPT) & (at < until)).long(),
  }


def logps_of(model, inputs):
  """By response the log-probs of its tokens."""
  with torch.no_grad():
    logits = model(inputs['input_ids'], inputs['attention_mask']).logits
  logp = logits.log_softmax(-1)[:, :-1]
  ids = inputs['input_ids'][:, 1:, None]
  logp, mask = logp.gather(-1, ids)[..., 0], inputs['completion_mask'][:, 1:]
  return [row[m.bool()].tolist() for row, m in zip(logp, mask, strict=True)]


def trainer_of(loss, beta, folder):
  ids = {str(i): i for i in range(VOCABULARY)}
  words = Tokenizer(models.WordLevel(ids, unk_token='0'))
  words.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token='0', eos_token='1'
  )
  given = [{'prompt': '2 3', 'chosen': ' 4 5', 'rejected': ' 6'}]
  args = trl.DPOConfig(
    folder, loss_type=loss, beta=beta, use_cpu=True, report_to=[], bf16=False
  )
  return trl.DPOTrainer(
    model=model_of(0),
    ref_model=model_of(1),
    args=args,
    train_dataset=Dataset.from_list(given),
    processing_class=tokenizer,
  )


def main():
  inputs, values = inputs_of(), []
  with tempfile.TemporaryDirectory() as folder:
    for loss, beta in CASES:
      trainer = trainer_of(loss, beta, folder)
      trainer.model.eval()
      with torch.no_grad():
        value = trainer.compute_loss(trainer.model, dict(inputs))
      values.append({'loss': loss, 'beta': beta, 'value': float(value)})
  found = {
    'made_by': 'launch/reproduce/trl_preference.py',
    'versions': {m.__name__: m.__version__ for m in (trl, torch, transformers)},
    'policy': logps_of(model_of(0), inputs),
    'reference': logps_of(model_of(1), inputs),
    'values': values,
  }
  OUT.write_text(json.dumps(found, indent=1) + '\n')
  print(values)


if __name__ == '__main__':
  main()
