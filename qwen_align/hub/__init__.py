"""What a folder, the Hub's cache or the Hub has of a model or a data set. Nothing here loads one, or imports what does."""
