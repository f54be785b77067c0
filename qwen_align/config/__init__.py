"""What a job is: groups, fields of TRL, overrides, and what can be checked without weights."""
