"""Settings with which a stage takes about a second."""

TINY = (
    "experiment=quickstart", "model.hidden_size=32", "model.num_hidden_layers=1", "model.intermediate_size=32",
    "data.problems=200", "data.evaluation_problems=20", "evaluation.problems=20", "evaluation.samples=2",
    "stages.sft.args.max_steps=4", "stages.sft.batch_size=8", "stages.rloo.args.max_steps=3",
    "stages.rloo.args.save_steps=1", "stages.rloo.args.num_generations=4", "stages.rloo.prompts_per_step=16",
    "stages.best_of_n.problems=20", "stages.best_of_n.samples=4", "checkpoints.keep=2",
)  # fmt: skip
