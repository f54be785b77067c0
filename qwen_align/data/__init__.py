"""Data sets, one file a source. A view is a method of the data class: demonstrations, preferences, prompts, evaluation."""
