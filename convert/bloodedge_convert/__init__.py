"""Any host: from a run folder to a bundle of quantised models that passed the gate."""
