"""TFDS builders of the small world, read by index through grain.

Files are array_record, so neither writing nor reading needs TensorFlow.
"""

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import grain
import numpy as np
import tensorflow_datasets as tfds

from jaxdistill.data.small import wide, world

CORPORA = {
  'corpus': world.draw_document,
  'wide': wide.draw_document,
  'judging': wide.draw_judgement,
  'foreign': functools.partial(world.draw_document, wording=world.FOREIGN),
}


class SmallWorld(tfds.core.GeneratorBasedBuilder):
  """The small world as a dataset.

  Config `corpus` holds documents to pretrain on (formats propose, solve,
  verify and hint; all over problems of the train split), `wide` those of all
  formats (comparing and revising, people, items as well), `judging` those with
  three quarters of comparing and verifying, `foreign` those of `corpus` with
  every working in another wording. Config `problems`
  holds problems with their answers in four disjoint splits:

  | split | problems | what |
  |---|---|---|
  | train | 20,000 | the corpus's mix of kinds |
  | dev   | 200 | the held-out mix |
  | test  | 500 | the held-out mix |
  | ood   | 500 | kinds that the corpus shows rarely or never |

  The held-out mix, fixed here once: additions of two and of three digits (24%
  each), subtractions of two and of three digits (21% each), two digits times
  one (10%). The one-digit factor on the right is 2 to 6 throughout. Out of
  distribution: additions and subtractions of four digits by four (20% each)
  and four by two (15% each), three digits times one (20%), four digits times
  one (10%). Kinds of 4 by 4 and 3 by 1 digits are 1% of the corpus each; those
  of 4 by 2 and 4 by 1 do not occur in it.

  Which split a problem belongs to is decided by its SHA-256, so no test
  problem, in distribution or out, occurs in any training document.
  """

  VERSION = tfds.core.Version('1.1.0')
  BUILDER_CONFIGS: ClassVar = [
    tfds.core.BuilderConfig(name='problems', description='With answers.'),
    tfds.core.BuilderConfig(name='corpus', description='To pretrain on.'),
    tfds.core.BuilderConfig(name='wide', description='All formats.'),
    tfds.core.BuilderConfig(name='judging', description='Mostly judging.'),
    tfds.core.BuilderConfig(name='foreign', description='Worded otherwise.'),
  ]
  DOCUMENTS = 400_000

  def _document(self) -> Callable | None:
    """Draws the corpus's documents; None where this is none."""
    config = self.builder_config
    return CORPORA.get(config.name) if config else None

  def _info(self):
    if self._document():
      names = 'format', 'prompt', 'response'
    else:
      names = 'text', 'operation', 'answer'
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in names}
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    if self._document():
      return {'train': self._generate_examples(self.DOCUMENTS)}
    draws = {
      'train': (1, world.CORPUS_MIX, 'train', 20_000),
      'dev': (2, world.TEST_MIX, 'dev', 200),
      'test': (3, world.TEST_MIX, 'test', 500),
      'ood': (4, world.OOD_MIX, 'test', 500),
    }
    return {split: self._problems(*draw) for split, draw in draws.items()}

  def _generate_examples(self, count):
    draw = self._document()
    assert draw, 'only a corpus has documents'
    for i in range(count):
      yield i, draw(0, i)

  def _problems(self, seed, mix, split, count):
    if split == 'train':  # few one-digit problems exist: repeats are allowed
      rng = np.random.default_rng(seed)
      found = [world.draw_sum(rng, mix, split) for _ in range(count)]
    else:
      found = world.draw_unique(seed, mix, split, count)
    for i, s in enumerate(found):
      answer = str(s.answer)
      yield i, {'text': str(s), 'operation': s.operation, 'answer': answer}


def source(config: str, split: str) -> grain.MapDataset:
  """Examples of `small_world/<config>` by index, made on first use.

  Returns:
    A grain `MapDataset` of dicts of strings.
  """
  builder = SmallWorld(config=config, file_format='array_record')
  if not builder.is_prepared():
    what = f'small_world/{config} in {builder.data_path}'
    minute = ' (a minute)' if config in CORPORA else ''
    print(f'Making the data set {what}{minute}, once.', file=sys.stderr)
  # TFDS narrates on stdout; a run's own account is the only one users need.
  with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
    tfds.disable_progress_bar()
    builder.download_and_prepare()
  read: Any = builder.as_data_source  # its signature hides behind a wrapper
  examples = read(split=split)
  return grain.MapDataset.source(examples).map(
    lambda example: {k: v.decode() for k, v in example.items()}
  )


def fingerprint(config: str) -> str:
  """SHA-256 over the data files of `small_world/<config>`, in name order."""
  source(config, 'train')
  folder = SmallWorld(config=config, file_format='array_record').data_path
  digest = hashlib.sha256()
  for path in sorted(p for p in folder.iterdir() if 'array_record' in p.name):
    digest.update(path.read_bytes())
  return digest.hexdigest()
