"""What --help prints: the groups with their options as conf/ has them now, the keys people use, commands to copy."""

from qwen_align.config import groups

_TEXT = """\
qwen_align: post-train a small language model with TRL, one command for the whole chain of stages.

  python -m qwen_align GROUP=OPTION ... KEY=VALUE ...

Groups and their options:
{groups}

Keys that people use:
  method.args.learning_rate=1e-5    any field of TRL's config class, under its own name
  stages.sft.args.max_steps=100     the same for a stage on the way to the one that is asked for
  init=runs/FOLDER                  start from a run folder, a model folder, a Hub name, a method or base
  reward=FILE.py:FUNCTION           your own reward f(completions, **columns), or one of TRL's: reward=trl.rewards.NAME
  data.verifier=FILE.py:FUNCTION    your own verdict verify(completion, **row): true or false, or a score from 0 to 1
  seed=1  runs_dir=runs  name=NAME  force=true  plan=true

Commands to copy:
  python -m qwen_align experiment=quickstart                         SFT, RLOO, best-of-N on two CPU cores, nothing to download
  python -m qwen_align experiment=quickstart plan=true               only the plan
  python -m qwen_align method=rloo reward=deberta                    Qwen2.5-0.5B: SFT, a reward model, RLOO on UltraFeedback
  python -m qwen_align method=rloo data=countdown                    Qwen2.5-0.5B: SFT first, then RLOO on the verifier
  python -m qwen_align method=evaluate data=countdown init=runs/FOLDER   greedy, pass@k and best-of-N of any policy
  python -m qwen_align -m method=sft adapter=none,lora seed=1,2      a sweep

All keys of a command: --cfg job. Your own options: --config-dir FOLDER. Hydra's own flags: --hydra-help.
"""


def text() -> str:
    lines = [f"  {name:<11} {', '.join(groups.options(name))}" for name in groups.names()]
    return _TEXT.format(groups="\n".join(lines))
