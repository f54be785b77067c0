"""How the stages of a job come about: plan, run, launch, the run folder, the worker."""
