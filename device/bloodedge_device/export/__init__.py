"""A state folder's cells as a data set that ``train`` and ``finetune`` read, and other people's tools too."""
