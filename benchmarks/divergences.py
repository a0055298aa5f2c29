"""Our distillation losses beside TRL's, on the same logits: are they equal?

  python benchmarks/divergences.py --trl torch/bin/python

Values and gradients by the student's logits of 64 tokens over 500 symbols, for
every divergence and support that both have: SDPO's and SDFT's (top k with and
without the rest, whole vocabulary, sampled token) and GKD's.
"""

import sys

import sides

ALPHAS = (0.0, 0.1, 0.5, 0.9, 1.0)
TOKENS, SYMBOLS, K = 64, 500, 20
CASES = [
  *(f'{kind} {a}' for kind in ('all', 'top', 'top, rest') for a in ALPHAS),
  *(f'gkd {a}' for a in ALPHAS),
  'sampled',
  'ratio',
]


def main() -> None:
  parser = sides.parser(__doc__, 1, 'divergences')
  parser.add_argument('--trl', default='', help='a Python that has TRL')
  args = parser.parse_args()
  if sides.answer(args, {'ours': ours, 'trl': trl}):
    return
  pythons = {'ours': sys.executable, 'trl': args.trl}
  measured = sides.Sides.of(__file__, args, pythons)
  found = {
    side: measured.start(side, {'threads': args.threads}) for side in pythons
  }
  rows = []
  for case in CASES:
    mine, theirs = (found[side]['cases'][case] for side in ('ours', 'trl'))
    rows.append([case, *(apart(mine[k], theirs[k]) for k in ('value', 'grad'))])
  versions = {side: f['version'] for side, f in found.items()}
  record = {'machine': sides.machine(), 'versions': versions, 'apart': rows}
  sides.write(args.out, record)
  print(f'{"":14}{"value":>12}{"gradient":>12}   (largest difference)')
  for case, value, gradient in rows:
    print(f'{case:14}{value:12.1e}{gradient:12.1e}')


def apart(first: list, second: list) -> float:
  """The largest difference of two lists of numbers."""
  return max(abs(a - b) for a, b in zip(first, second, strict=True))


def draws():
  """Logits of student and teacher, tokens, old log-probs."""
  import numpy as np

  draw = np.random.default_rng(0)
  student, teacher = draw.normal(0, 2, (2, TOKENS, SYMBOLS)).astype('float32')
  tokens = draw.integers(0, SYMBOLS, TOKENS)
  return student, teacher, tokens, draw.normal(-8, 2, TOKENS).astype('float32')


def ours(job: dict) -> dict:
  import jax
  import jax.numpy as jnp

  from jaxdistill import losses

  del job
  student, teacher, tokens, old = map(jnp.asarray, draws())

  def value(case, s):
    kind, _, alpha = case.rpartition(' ')
    if case == 'sampled':
      logp = losses.token_logp(s, tokens)
      return losses.sampled_token(logp, losses.token_logp(teacher, tokens))
    if case == 'ratio':
      terms = losses.reverse_kl(*losses.over_all(s, teacher))
      since = losses.token_logp(s, tokens) - old
      return losses.summed(terms) * losses.truncated_importance(since, 2.0)
    pair = (
      losses.over_student_top(s, teacher, K, tail=kind == 'top, rest')
      if kind.startswith('top')
      else losses.over_all(s, teacher)
    )
    return losses.summed(losses.divergence(float(alpha))(*pair))

  cases = {}
  for case in CASES:
    grad = jax.grad(lambda s, case=case: value(case, s).sum())(student)
    cases[case] = {
      'value': value(case, student).tolist(),
      'grad': grad.ravel().tolist(),
    }
  return {'cases': cases, 'version': f'jax {jax.__version__}'}


def trl(job: dict) -> dict:
  import torch
  import trl
  from trl.experimental.gkd.gkd_trainer import GKDTrainer
  from trl.experimental.sdft import loss_utils

  del job
  student, teacher, tokens, old = map(torch.tensor, draws())

  def value(case, s):
    kind, _, alpha = case.rpartition(' ')
    if case == 'sampled':
      return loss_utils.compute_sampled_token_self_distillation_loss(
        s, teacher, tokens, distillation_alpha=1.0
      )
    if case == 'ratio':
      each = loss_utils.compute_full_logit_self_distillation_loss(
        s, teacher, distillation_alpha=1.0
      )
      logp = torch.log_softmax(s, -1).gather(-1, tokens[:, None])[:, 0]
      return loss_utils.apply_importance_sampling_clipping(each, logp, old, 2.0)
    if kind == 'gkd':
      return GKDTrainer.generalized_jsd_loss(
        s[None], teacher[None], beta=float(alpha), reduction='none'
      ).sum(-1)[0]
    if kind == 'all':
      return loss_utils.compute_full_logit_self_distillation_loss(
        s, teacher, distillation_alpha=float(alpha)
      )
    return loss_utils.compute_topk_self_distillation_loss(
      s,
      teacher,
      distillation_topk=K,
      distillation_alpha=float(alpha),
      distillation_add_tail=kind == 'top, rest',
    )

  cases = {}
  for case in CASES:
    s = student.clone().requires_grad_()
    each = value(case, s)
    each.sum().backward()
    cases[case] = {
      'value': each.tolist(),
      'grad': s.grad.ravel().tolist(),
    }
  version = f'trl {trl.__version__}, torch {torch.__version__}'
  return {'cases': cases, 'version': version}


if __name__ == '__main__':
  main()
