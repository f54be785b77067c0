"""What can be done, one file each: a method takes the stage's config, its data and its folder, and returns its metrics."""
