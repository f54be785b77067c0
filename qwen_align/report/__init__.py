"""What runs left, for people: evidence, plots, pages, the table of a sweep."""
