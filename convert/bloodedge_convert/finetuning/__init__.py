"""`bloodedge finetune`: a bundle's head fitted to a bench's reviewed cells, judged on slides held back, and written."""
