"""Networks of other programs: their spec, and how they become a run that the gate can judge."""
