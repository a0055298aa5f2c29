"""Self-Questioning Language Models, table 1: three-digit multiplication.

  jaxdistill train --config configs/sqlm_qwen25_3b_multiplication.py \\
    --workdir runs/multiplication

arXiv 2508.03682, Qwen2.5-3B-Instruct, 4,096 test problems. Published, as the
best test score within 100 steps, three seeds: .791 before, .948 +- .009 after,
.826 +- .079 if only the form of an answer is paid. We have not run it.

From the paper (table 4): 64 topics a step with 4 proposals and 4 answers each,
K = 5, Adam at a constant 1e-6, weight decay .01, clip .2, KL .001, temperature
1, answers up to 1,024 tokens, 100 steps, a score every 5, all weights trained,
both roles by the prompt only. Minibatches of 32 prompts, 128 answers, are 8
optimizer steps.

Ours: every topic shows another example, where the paper's 64 are one prompt;
a fifth of the proposals is held out and not asked; ties and lone answers pay
nobody, cut answers have no vote, malformed proposals are not trained on, and
answers compare as rationals. The loss is a mean over answers of each one's
mean, the published code's a mean over all tokens. The proposer takes 8
optimizer steps too, there 2. Proposals may have 64 tokens, and answers stand in
a box, not between tags. We also score 512 `dev` problems, to select on; that
and the test set are more than half of the work (`--config.eval.problems=512`).

Runs on 4 GPUs of 80 GB. By arithmetic, not measured: weights, two moments and
the anchor are 50 GB in float32, gradients 25 more, the weights it began with
12, shared out evenly; and while it writes each GPU has the policy and the
anchor whole, 31 GB with the copy to decode with, beside its share of keys and
values: 19 GB in all, at times held three times over. One GPU of 141 GB:
`--config.mesh.fsdp=1`. On disk a checkpoint is 37 GB
(three may be there at once), the anchor 12.
"""

from jaxdistill.config import base_config


def get_config():
  config = base_config('sqlm')
  config.model = 'hf:Qwen/Qwen2.5-3B-Instruct'
  config.task = 'arithmetic:mul:3,3:think'
  config.dtype = 'bfloat16'  # of compute; weights are float32
  config.remat = 'full'
  config.trainable = 'full'
  config.roles = 'shared'
  config.steps = 100
  config.eval_every = 5
  config.checkpoint_every = 25
  config.anchors = {}
  config.eval.splits = ('test', 'dev')
  config.eval.problems = 4096
  config.eval.samples = 1
  config.eval.max_tokens = 1024
  config.method.problems = 64
  config.method.proposals = 4
  config.method.samples = 4
  config.method.propose_every = 5
  config.method.minibatches = 8
  config.method.kl = 0.001
  config.method.clip_low = 0.2
  config.method.clip_high = 0.2
  config.method.temperature = 1.0
  config.method.max_problem_tokens = 64
  config.method.max_tokens = 1024
  config.optimizer.lr = 1e-6
  config.optimizer.schedule = 'constant'
  config.optimizer.b2 = 0.999
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip = 1.0
  config.batch.tokens = 8192
  config.mesh.fsdp = 4
  return config
