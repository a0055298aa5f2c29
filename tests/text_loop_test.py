"""Whole runs on text: every config of a real model, on a tiny one."""

import inspect
import json
import math

import jax
import numpy as np
import pytest
from checkpoints import make
from config_files import TEXT, compares
from safetensors.numpy import load_file

from jaxdistill import config as configs
from jaxdistill import dist
from jaxdistill.checkpoint import Checkpoints
from jaxdistill.cli.main import main
from jaxdistill.data.tasks import arithmetic, equations, python_file
from jaxdistill.data.text import chat
from jaxdistill.models import store
from jaxdistill.run.loop import Loop

COMPARISONS = [p for p in TEXT if compares(p)]
# Of the others of `sqlm` it is said whether they fit together.
TRAINED = ('sqlm_qwen05_addition', 'sqlm_qwen25_3b_equations')
ALIKE = [p for p in TEXT if p.stem.startswith('sqlm_')]
RUNS = [p for p in ALIKE if p.stem in (*TRAINED, 'sqlm_guided_qwen05')]
SEAL = [p for p in TEXT if p.stem.startswith('seal')]
# A random model writes no problem that can be read.
WRITES = [p for p in TEXT if p.stem.startswith('cot')]
OTHERS = [p for p in TEXT if p not in (*COMPARISONS, *ALIKE, *SEAL, *WRITES)]
CHOOSING = 'vote', 'u_opsd', 'rft_vote', 'yes', 'known'
# One given problem to a topic: what a random model proposes is malformed.
SMALLEST = {
  'dtype': 'float32',
  'remat': 'none',
  'steps': 2,
  'eval_every': 2,
  'checkpoint_every': 2,
  'eval.splits': "('test',)",
  'eval.problems': 2,
  'guard.problems': 2,
  'eval.samples': 2,
  'eval.max_tokens': 4,
  'method.problems': 2,
  'method.proposals': 3,
  'method.samples': 3,
  'method.propose_every': 1,
  'method.known': 0.33,
  'method.minibatches': 1,
  'method.max_problem_tokens': 4,
  'method.max_tokens': 4,
  'batch.length': 384,
  'batch.sequences': 2,
  'mesh.fsdp': 1,
}
# Whatever is proposed can be asked: it counts as the last digit of its length,
# so that all prompts are equally long. So are answers read.
ANYTHING = """
from jaxdistill.data.tasks.problems import right
from jaxdistill.types import Problem, Task


class Anything(Task):
  @property
  def name(self):
    return 'anything'

  def problems(self, split):
    return [self.parse_problem(i * ' ') for i in range(10)]

  def solver_prompt(self, problem):
    return f'Is {problem.text} even?'

  def proposer_prompt(self, topic):
    return f'Write something like {topic.topic}.'

  def parse_problem(self, text):
    last = str(len(text) % 10)
    return Problem(last, self, str(int(last) % 2), last)

  def held_out(self, problem):
    return False

  def parse_answer(self, text):
    return str(len(text) % 2)

  def reward(self, problem, answers_G):
    return right(problem, answers_G)


task = Anything()
"""


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A tiny Qwen2.5 that ends a third of its answers with every token.

  The bytes of characters beyond ASCII, which no prompt has, are end marks.
  """
  folder = tmp_path_factory.mktemp('model')
  sizes = {'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 1}
  make(folder, 'qwen2', **sizes)
  vocabulary = json.loads((folder / 'tokenizer.json').read_text())
  vocabulary = vocabulary['model']['vocab']
  beyond = (*range(0xA1, 0x100), *range(289, 324))  # as byte-level BPE has them
  ends = sorted(vocabulary[chr(c)] for c in beyond if chr(c) in vocabulary)
  (folder / 'generation_config.json').write_text(
    json.dumps({'eos_token_id': ends})
  )
  return folder


@pytest.fixture(scope='module', autouse=True)
def few_problems():
  """Held-out splits of 8: drawing thousands takes longer than the runs."""
  with pytest.MonkeyPatch.context() as patch:
    for module in (arithmetic, equations):
      module._held_out.cache_clear()
      for split in module.COUNTS:
        patch.setitem(module.COUNTS, split, 8)
    yield
  for module in (arithmetic, equations):
    module._held_out.cache_clear()


pytestmark = pytest.mark.usefixtures('without_figures')


def smallest(method=None):
  """What makes a config small, of a method that may lack some of the keys."""
  return {
    k: v
    for k, v in SMALLEST.items()
    if method is None or not k.startswith('method.') or k[7:] in method
  }


def asked(verb, config, model, workdir, *others, method=None, **more):
  """The exit code of a verb on the smallest form of a config."""
  sets = {'model': model, **smallest(method), **more}
  sets = [f'--config.{k}={v}' for k, v in sets.items()]
  paths = ['--config', str(config), '--workdir', str(workdir)]
  return main([verb, *paths, *sets, *others])


def lines(path):
  return [json.loads(line) for line in path.open()]


@pytest.mark.parametrize('config', RUNS, ids=lambda p: p.stem)
def test_every_text_config_takes_two_steps(
  mesh, model, tmp_path, capsys, config
):
  assert asked('train', config, model, tmp_path) == 0
  logged = lines(tmp_path / 'metrics.jsonl')
  assert [x['step'] for x in logged] == [0, 1, 2]
  wanted = configs.read_config(str(config), ())
  for x in logged[:2]:
    assert math.isfinite(x['train/loss']) and x['train/skipped'] == 0
    assert ('train/kl_base' in x) == (wanted.method.kl > 0)
  measured = ['eval/test/accuracy_greedy' in x for x in logged]
  assert measured == [True, False, True]
  for step in range(2):
    records = lines(tmp_path / f'rollouts/{step:06}.jsonl')
    proposed = [r['proposal'] for r in records if 'proposal' in r]
    answered = [r for r in records if 'known' in r]
    assert len(proposed) == 6 and len(set(proposed)) > 1
    assert len(answered) >= 2
    for r in answered:
      assert r['problem'] and len(r['texts']) == len(r['rewards']) == 3
    assert any(text for r in answered for text in r['texts'])
  assert Checkpoints(tmp_path).newest() == 2

  before = (tmp_path / 'metrics.jsonl').read_text()
  capsys.readouterr()
  assert asked('train', config, model, tmp_path) == 0
  assert f'{tmp_path} is finished' in capsys.readouterr().out
  assert (tmp_path / 'metrics.jsonl').read_text() == before


def with_teacher(config, model):
  """A config whose argument is a teacher, with one."""
  takes = inspect.signature(python_file(str(config)).get_config).parameters
  return f'{config}:{model}' if takes else str(config)


@pytest.mark.parametrize(
  'config',
  [p for p in OTHERS if not p.stem.startswith('reflection')],  # no pair is kept
  ids=lambda p: p.stem,
)
def test_every_other_text_config_takes_two_steps(mesh, model, tmp_path, config):
  named = with_teacher(config, model)
  method = configs.read_config(named, [('model', str(model))]).method
  # What comes before the rest is to be shorter than all.
  few = {f'method.{k}': 1 for k in ('stage1_steps',) if k in method}
  assert asked('train', named, model, tmp_path, method=method, **few) == 0
  logged = lines(tmp_path / 'metrics.jsonl')
  assert [x['step'] for x in logged] == [0, 1, 2]
  assert all(x['rollout/tokens'] > 0 for x in logged[:2])
  assert {'eval/test/accuracy_greedy'} <= logged[0].keys() & logged[2].keys()
  for step in range(2):
    assert len(lines(tmp_path / f'rollouts/{step:06}.jsonl')) >= 2


@pytest.mark.parametrize('config', SEAL, ids=lambda p: p.stem)
def test_edits_in_words_are_learned(mesh, model, tmp_path, config):
  keys = {
    **{k: v for k, v in SMALLEST.items() if not k.startswith('method.')},
    **{'method.problems': 2, 'method.samples': 2, 'method.seeds': 1},
    **{'method.inner_epochs': 2, 'method.inner_rank': 2},
    **{'method.max_tokens': 12, 'method.answer_tokens': 4},
    **{'method.gain': False, 'model': model},
  }
  sets = [f'--config.{k}={v}' for k, v in keys.items()]
  paths = ['--config', str(config), '--workdir', str(tmp_path)]
  assert main(['train', *paths, *sets]) == 0
  logged = lines(tmp_path / 'metrics.jsonl')
  assert [x['step'] for x in logged] == [0, 1, 2]
  measured = {'accuracy_greedy', 'accuracy_edited', 'accuracy_passage'}
  for x in (logged[0], logged[2]):
    assert {f'eval/test/{name}' for name in measured} <= x.keys()
  kept = [x for x in logged[:2] if x['seal/kept']]
  assert kept and all(math.isfinite(x['train/loss']) for x in kept)
  records = lines(tmp_path / 'rollouts/000000.jsonl')
  assert [len(r['texts']) for r in records] == [2, 2]
  assert all(r['topic'] in r['problem'] for r in records)
  assert f'configs/{config.name}' in python_file(str(config)).__doc__


@pytest.mark.parametrize('config', COMPARISONS, ids=lambda p: p.stem)
def test_every_text_comparison_takes_a_step_of_each_arm(
  mesh, model, tmp_path, capsys, config
):
  comparison, sets = configs.read_comparison(str(config), ()), {'tokens': 1}
  if inspect.signature(python_file(str(config)).get_config).parameters:
    config = f'{config}:{model}'  # whose argument is a teacher
    sets['method.known'] = 0  # all are given
  sets['method'] = comparison.base.method
  assert asked('compare', config, model, tmp_path, '--seeds=0', **sets) == 0
  n = sum(len(comparison.seeds_of(arm)) for arm in comparison.arms)
  said = capsys.readouterr().out
  assert f'{len(comparison.arms)} of {n} runs are finished.' in said
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['arms'].keys() == comparison.arms.keys()
  for arm in comparison.arms:
    (first, *_) = lines(tmp_path / f'{arm}/0/metrics.jsonl')
    assert first['rollout/tokens'] > 0
    if arm in CHOOSING and 'train/loss' not in first:
      continue  # nothing that a random model answers is chosen
    assert math.isfinite(first['train/loss'])


@pytest.mark.parametrize(
  'config', [*ALIKE, *OTHERS, *WRITES], ids=lambda p: p.stem
)
def test_what_a_text_config_says_fits_together(config, monkeypatch):
  monkeypatch.setattr(store, 'symbols_of', lambda name: None)  # all of Unicode
  named = with_teacher(config, 'small-late')
  found = configs.read_config(named, [('model', 'small-late')])
  configs.check(found)
  dist.make_mesh(**found.mesh)  # of eight devices
  written = found.method.get('max_problem_tokens', 0)
  longest = max(found.method.max_tokens, written)
  assert found.eval.max_tokens <= found.method.max_tokens
  room = found.batch.length or found.batch.tokens
  assert longest + 128 <= room  # a prompt goes before
  assert f'configs/{config.name}' in python_file(str(config)).__doc__


def same(left, right):
  pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
  'name, roles',
  [
    ('sqlm_qwen05_addition', 'adapter'),  # LoRA, and one for each role
    ('sqlm_qwen25_3b_multiplication', 'shared'),  # all weights
  ],
)
def test_both_roles_learn_from_text(mesh, model, tmp_path, name, roles):
  (tmp_path / 'anything.py').write_text(ANYTHING)
  sets = {
    **SMALLEST,
    'model': str(model),
    'roles': roles,
    'task': str(tmp_path / 'anything.py'),
    'guard.act': False,
    'method.known': 0.0,
    'method.problems': 4,
    'method.band': '(0.0, 1.0)',
    'optimizer.lr': 1e-3,
  }
  (path,) = (p for p in ALIKE if p.stem == name)
  text = [(k, v if isinstance(v, str) else repr(v)) for k, v in sets.items()]
  config = configs.read_config(str(path), text)
  configs.check(config)
  loop = Loop(configs.build(config), tmp_path / 'run', config.to_dict())
  old, frozen = jax.tree.map(np.array, (loop.state.params, loop.frozen))
  summary = loop.train()

  logged = lines(tmp_path / 'run/metrics.jsonl')
  for x in logged[:2]:
    assert x['selfplay/valid'] > 0.3 and x['selfplay/majority'] > 0.3
    assert 0 < x['selfplay/solver_reward'] < 1
    for role in ('', 'proposer_'):
      assert math.isfinite(x[f'train/{role}loss'])
      assert 0 < x[f'train/{role}grad_norm'] < 1e4
  assert summary['optimizer_steps'] == 4 and not summary['skipped_updates']
  assert {'first', 'last'} <= summary['eval/test/accuracy_sampled'].keys()

  new = loop.state.params
  assert not same(old.shared, new.shared)
  if roles == 'adapter':
    for a, b in zip(*map(jax.tree.leaves, (old.roles, new.roles)), strict=True):
      moved = (np.asarray(a) != np.asarray(b)).reshape(len(a), -1).any(1)
      assert moved.all()  # solver and proposer
  trunk = load_file(model / 'model.safetensors')
  embed = trunk['model.embed_tokens.weight']
  lora = config.trainable == 'lora'
  assert same(frozen, loop.frozen) and bool(jax.tree.leaves(frozen)) == lora
  kept = [
    np.array_equal(x, embed)
    for x in jax.tree.leaves((new, loop.frozen))
    if x.shape == embed.shape
  ]
  assert any(kept) == lora


def test_a_directory_is_scored_on_a_text_task(mesh, model, tmp_path, capsys):
  out = tmp_path / 'scores.json'
  ask = ['eval', '--model', str(model), '--task', 'arithmetic:add:2,2']
  ask += ['--problems', '3', '--samples', '2', '--out', str(out)]
  assert main(ask) == 0
  said = capsys.readouterr().out.splitlines()
  assert said[0] == (
    f'{model}: 3 test problems of arithmetic:add:2,2, 2 samples each '
    '(the first answers compile)'
  )
  found = json.loads(out.read_text())
  assert found['problems'] == 3 and 0 < found['eval/test/length'] < 64
  assert found['eval/test/cut'] < 1
  assert main([*ask[:4], 'arithmetic:ad:2,2']) == 2
  assert "the nearest is 'add'" in capsys.readouterr().err


def test_a_model_is_asked_not_to_think_aloud():
  template = (  # the end of Qwen3's
    '{{ messages[0].content }}<|im_start|>assistant\n'
    '{%- if enable_thinking is defined and enable_thinking is false %}'
    "{{- '<think></think>' }}{%- endif %}"
  )
  said = chat.render(
    template,
    [{'role': 'user', 'content': 'Q'}],
    bos=None,
    eos=None,
    add_generation_prompt=True,
    source='here',
  )
  assert said.endswith('<think></think>')
