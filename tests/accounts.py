"""What a run leaves, made up: config, summary, an alarm, metrics."""

SAMPLED, GREEDY = 'eval/test/accuracy_sampled', 'eval/test/accuracy_greedy'
CONFIG = {
  'seed': 3,
  'steps': 4,
  'eval': {'problems': 100, 'splits': ['test', 'ood'], 'max_tokens': 64},
  'method': {'name': 'sqlm', 'max_tokens': 32, 'kl': 0.02},
}
SUMMARY = {
  'wall_s': 3725.0,
  'tokens': 12345,
  'seed': 3,
  'optimizer_steps': 4,
  'skipped_updates': 0,
  'model': '956ec249',
  'device': 'cpu',
  'versions': {'jax': '0.10.2'},
}
ALARM = {
  'step': 1,
  'alarm': 'greedy',
  'metric': GREEDY,
  'seen': 0.41,
  'limit': 0.55,
  'action': 'rollback',
  'said': 'It is losing what it knew. Went back to step 0.',
}


def evaluated(*pairs):
  return [
    {'step': i, SAMPLED: sampled, GREEDY: greedy}
    for i, (sampled, greedy) in enumerate(pairs)
  ]
