"""Our distillation losses beside TRL's and verl's, on the same logits.

  python benchmarks/divergences.py --trl torch/bin/python \\
    --verl torch/bin/python

Are they equal? Values and gradients by the student's logits of 64 tokens over
500 symbols, for every divergence and support that both have. TRL: SDPO's and
SDFT's (top k with and without the rest, whole vocabulary, sampled token) and
GKD's. verl: on-policy distillation, over the teacher's top k (a sum that is
neither renormalised nor closed with the rest: ours with the rest, less the
rest's term) and of the sampled token: k3, cut at 10; k1 as a reward and k2,
whose gradients are those of our sampled token and whose values are others.
"""

import itertools
import sys

import sides

ALPHAS = (0.0, 0.1, 0.5, 0.9, 1.0)
TOKENS, SYMBOLS, K = 64, 500, 20
CASES = {
  'trl': [
    *(f'{kind} {a}' for kind in ('all', 'top', 'top, rest') for a in ALPHAS),
    *(f'gkd {a}' for a in ALPHAS),
    'sampled',
    'ratio',
  ],
  'verl': ['teacher top', 'k3', 'k1 reward', 'k2'],
}
GRADIENT = ('k1 reward', 'k2')  # of the sampled token: alike in nothing else


def main() -> None:
  parser = sides.parser(__doc__, 1, 'divergences')
  for peer in CASES:
    parser.add_argument(f'--{peer}', default='', help=f'a Python with {peer}')
  args = parser.parse_args()
  if sides.answer(args, {'ours': ours, 'trl': trl, 'verl': verl}):
    return
  pythons = {'ours': sys.executable, 'trl': args.trl, 'verl': args.verl}
  measured = sides.Sides.of(__file__, args, pythons)
  found = {
    side: measured.start(side, {'threads': args.threads})
    for side in measured.pythons
  }
  rows = []
  for peer in (p for p in CASES if p in found):
    for case in CASES[peer]:
      mine, theirs = (found[side]['cases'][case] for side in ('ours', peer))
      grad = apart(mine['grad'], theirs['grad'])
      value = (
        None if case in GRADIENT else apart(mine['value'], theirs['value'])
      )
      rows.append([peer, case, value, grad])
  versions = {side: f['version'] for side, f in found.items()}
  record = {'machine': sides.machine(), 'versions': versions, 'apart': rows}
  sides.write(args.out, record)
  print(f'{"":20}{"value":>12}{"gradient":>12}   (largest difference)')
  for peer, case, value, gradient in rows:
    shown = '' if value is None else f'{value:.1e}'
    print(f'{peer:6}{case:14}{shown:>12}{gradient:12.1e}')


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
    logp, teacher_logp = (losses.token_logp(x, tokens) for x in (s, teacher))
    if case in ('sampled', *GRADIENT):
      return losses.sampled_token(logp, teacher_logp)
    if case == 'k3':
      return jnp.minimum(losses.k3(logp, teacher_logp), 10.0)
    if case == 'teacher top':
      pair = losses.over_teacher_top(s, teacher, K)
      return losses.forward_kl(*pair)[..., :-1].sum(-1)
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
  for case in itertools.chain(*CASES.values()):
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

  version = f'trl {trl.__version__}, torch {torch.__version__}'
  return {'cases': differentiated('trl', value, student), 'version': version}


def verl(job: dict) -> dict:
  import torch
  import verl
  from verl.trainer.distillation.fsdp.losses import compute_forward_kl_topk
  from verl.trainer.ppo.core_algos import (
    compute_policy_loss_vanilla,
    kl_penalty,
  )
  from verl.workers.config import DistillationConfig, DistillationLossConfig

  del job
  student, teacher, tokens, _ = map(torch.tensor, draws())
  loss = DistillationLossConfig(
    loss_mode='forward_kl_topk', topk=K, log_prob_min_clamp=None
  )

  def nested(x):
    return torch.nested.as_nested_tensor([x], layout=torch.jagged)

  def value(case, s):
    if case == 'teacher top':
      top = torch.log_softmax(teacher, -1).topk(K)
      return compute_forward_kl_topk(
        s[None],
        nested(top.values),
        nested(top.indices),
        DistillationConfig(distillation_loss=loss),
        'thd',
      )['distillation_losses'][0]
    logp, teacher_logp = (
      torch.log_softmax(x, -1).gather(-1, tokens[:, None]).T
      for x in (s, teacher)
    )
    each = kl_penalty(logp, teacher_logp, case.partition(' ')[0])
    if not case.endswith('reward'):
      return each[0]
    mean, _ = compute_policy_loss_vanilla(
      logp.detach(), logp, -each.detach(), torch.ones_like(each), config=loss
    )
    return mean.expand(TOKENS)

  version = f'verl {verl.__version__}, torch {torch.__version__}'
  return {'cases': differentiated('verl', value, student), 'version': version}


def differentiated(peer, value, student):
  """Values and gradients of a peer's cases, in torch."""
  cases = {}
  for case in CASES[peer]:
    s = student.clone().requires_grad_()
    each = value(case, s)
    each.sum().backward()
    cases[case] = {
      'value': each.tolist(),
      'grad': s.grad.ravel().tolist(),
    }
  return cases


if __name__ == '__main__':
  main()
