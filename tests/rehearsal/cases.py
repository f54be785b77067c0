"""The command lines of the rehearsal, on stand-ins of a few layers: two updates a stage, a handful of problems."""

_TWO_STEPS = (
    "hardware=cpu", "max_completion_length=6", "data.problems=40", "evaluation.problems=2", "evaluation.samples=2",
    "stages.sft.batch_size=1", "stages.sft.args.max_steps=2", "stages.sft.args.max_length=96",
    "stages.sft.args.logging_steps=1",
    "stages.dpo.batch_size=1", "stages.dpo.args.max_steps=2", "stages.dpo.args.max_length=96",
    "stages.dpo.args.logging_steps=1",
    "stages.reward.batch_size=4", "stages.reward.args.max_steps=2", "stages.reward.args.logging_steps=1",
    "stages.reward.held_out=4",
    "stages.rloo.prompts_per_step=1", "stages.rloo.args.num_generations=2", "stages.rloo.args.max_steps=2",
    "stages.rloo.held_out_every=null",
    "stages.compare.problems=2", "stages.compare.samples=2", "stages.best_of_n.problems=2", "stages.best_of_n.samples=2",
    "stages.evaluate.problems=2", "stages.evaluate.samples=2", "stages.synthesize.problems=2",
    "stages.synthesize.samples=1",
)  # fmt: skip
_CASES = {  # in this order; a later one finds the stages of an earlier one finished
    "study_instruct": [  # without the table's row of RLOO on DistilBERT
        "experiment=study_instruct", "stages.sft.batch_size=2",
        'method.policies={sft: ["method=sft"], dpo: ["method=dpo"], rloo_deberta: ["method=rloo", "reward=deberta"], '
        'rloo_siamese: ["method=rloo", "reward=siamese_distilbert"]}',
    ],
    "study_countdown": [
        "experiment=study_countdown", "method=best_of_n", "stages.best_of_n.select=reward",
        "reward=[countdown,length,format,repetition]", "data.prompt='Numbers {numbers} target {target}'",
    ],
    "study_countdown, grpo": [
        "experiment=study_countdown", "method=grpo", "data.prompt='Numbers {numbers} target {target}'",
        "stages.grpo.prompts_per_step=1", "stages.grpo.args.num_generations=2", "stages.grpo.args.max_steps=2",
        "stages.grpo.held_out_every=null",
    ],
    "study_instruct, kto": [
        "experiment=study_instruct", "method=kto", "stages.sft.batch_size=2", "stages.kto.batch_size=2",
        "stages.kto.args.max_steps=2", "stages.kto.args.max_length=96",
    ],
    "cs224r": ["experiment=cs224r", "stages.sft.args.max_length=256", "stages.dpo.args.max_length=256"],
    "gsm8k, an adapter of another model": [
        "method=rloo", "data=gsm8k", "model=smollm2_135m", "adapter=lora", "stages.sft.args.max_length=256",
    ],
    "gsm8k, the model as it comes": ["method=evaluate", "data=gsm8k"],
    "gsm8k, what it answered": [
        "method=evaluate", "data=gsm8k", "generator=recorded", "generator.path={runs}/answers.json",
    ],
    "hh_rlhf": ["method=reward", "reward=minilm", "data=hh_rlhf", "adapter=lora"],
    "synthesize": ["method=synthesize", "data=countdown_hub"],
}  # fmt: skip
CASES = {name: [*_TWO_STEPS, *words] for name, words in _CASES.items()}
