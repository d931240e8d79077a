"""A logistic head on features of a network that stays as it is: computed once, kept on disk, fitted in seconds."""
